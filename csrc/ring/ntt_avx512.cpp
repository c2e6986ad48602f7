// The transform in AVX-512 IFMA. A block of the transform is halved into four blocks (two stages at once, so that each
// residue is loaded and stored half as often), and each of them recursively: blocks soon fit the first cache. Blocks of 32
// or 64 residues are done in registers.
//
// The block that uses powers[k] in its first stage uses powers[2k], powers[2k + 1] in its second, and its quarters are the
// blocks of 4k .. 4k + 3. The whole is block 1.
//
// Residues are reduced only as far as the multipliers need, whose operands are below 2^52: at every stage where p is near
// 2^50, at every second stage where p is below 2^49, as most primes are. A lane may hold anything above bit 52, which the
// multipliers do not see; only before comparing is it masked off.
#if defined(__x86_64__)

#include <bit>

#include "ring/avx512.h"
#include "ring/ntt_kernels.h"

namespace fheinfer::ring {

namespace {

using namespace avx512;

// p below 2^50. Between stages residues are below 4p forward, below 2p backward.
struct WidePrime : Prime {
    static constexpr bool kEveryStage = true;
    Lanes most;  // what no residue between stages of the inverse exceeds, a multiple of p

    FHEINFER_AVX512_INLINE explicit WidePrime(const Modulus& m) : Prime(m), most(twice) {}

    // x below 4p, to below 2p.
    FHEINFER_AVX512_INLINE Lanes reduce(Lanes x) const {
        return minus_2p(mask(x));
    }
    FHEINFER_AVX512_INLINE Lanes canonical(Lanes x) const {
        return minus_p(reduce(x));
    }
};

// p below 2^49. A stage that reduces leaves residues below 4p forward, below 2p backward; one that does not, below 6p and
// below 4p.
struct NarrowPrime : Prime {
    static constexpr bool kEveryStage = false;
    Lanes most;

    FHEINFER_AVX512_INLINE explicit NarrowPrime(const Modulus& m) : Prime(m), most(all(4 * m.p)) {}

    FHEINFER_AVX512_INLINE Lanes canonical(Lanes x) const {
        return minus_p(mask(reduce(x)));
    }
};

struct Twiddle {
    Lanes value, quotient;
};

// The powers of one direction.
struct Powers {
    const uint64_t *value, *quotient;

    FHEINFER_AVX512_INLINE explicit Powers(const Ntt::Table& t) : value(t.value.data()), quotient(t.quotient52.data()) {}

    // One power for all lanes.
    FHEINFER_AVX512_INLINE Twiddle one(std::size_t k) const {
        return {all(value[k]), all(quotient[k])};
    }
    // Powers k, k + 1, ... repeated to fill the lanes.
    template <int kCount>
    FHEINFER_AVX512_INLINE Twiddle several(std::size_t k) const {
        return {repeat<kCount>(value + k), repeat<kCount>(quotient + k)};
    }

private:
    template <int kCount>
    FHEINFER_AVX512_INLINE static Lanes repeat(const uint64_t* x) {
        if constexpr (kCount == 2)
            return _mm512_broadcast_i64x2(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
        else if constexpr (kCount == 4)
            return _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
        else
            return load(x);
    }
};

// x, y become the lanes x0 y0 x1 y1 x2 y2 x3 y3 and x4 y4 ... y7. Of a block of two vectors, residues 8 apart are in the
// same lane of x and y; after this, those that were 4 apart are; then those 2 apart, 1 apart, and then they are in order.
FHEINFER_AVX512_INLINE void interleave(Lanes& x, Lanes& y) {
    const Lanes lo = _mm512_permutex2var_epi64(x, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), y);
    y = _mm512_permutex2var_epi64(x, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), y);
    x = lo;
}

FHEINFER_AVX512_INLINE void deinterleave(Lanes& x, Lanes& y) {
    const Lanes even = _mm512_permutex2var_epi64(x, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), y);
    y = _mm512_permutex2var_epi64(x, _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15), y);
    x = even;
}

// x, y become x + w y, x - w y.
template <bool kReduce, class P>
FHEINFER_AVX512_INLINE void forward_butterfly(Lanes& x, Lanes& y, const Twiddle& w, const P& m) {
    const Lanes u = kReduce || P::kEveryStage ? m.reduce(x) : x;
    const Lanes v = m.multiply(y, w.value, w.quotient);
    x = _mm512_add_epi64(u, v);
    y = _mm512_sub_epi64(_mm512_add_epi64(u, m.twice), v);
}

// x, y become x + y, (x - y) w.
template <bool kReduce, class P>
FHEINFER_AVX512_INLINE void inverse_butterfly(Lanes& x, Lanes& y, const Twiddle& w, const P& m) {
    const Lanes difference = _mm512_sub_epi64(_mm512_add_epi64(x, kReduce ? m.most : m.twice), y);
    x = _mm512_add_epi64(x, y);
    x = kReduce || P::kEveryStage ? m.reduce(x) : x;
    y = m.multiply(difference, w.value, w.quotient);
}

// One stage between vectors kHalf apart.
template <int kHalf, bool kReduce, int kVectors, class P>
FHEINFER_AVX512_INLINE void forward_stage(Lanes (&v)[kVectors], std::size_t k, const Powers& powers, const P& m) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i)
        if ((i & kHalf) == 0)
            forward_butterfly<kReduce>(v[i], v[i + kHalf], powers.one((k + i) / (2 * kHalf)), m);
}

template <int kHalf, bool kReduce, int kVectors, class P>
FHEINFER_AVX512_INLINE void inverse_stage(Lanes (&v)[kVectors], std::size_t k, const Powers& powers, const P& m) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i)
        if ((i & kHalf) == 0)
            inverse_butterfly<kReduce>(v[i], v[i + kHalf], powers.one((k + i) / (2 * kHalf)), m);
}

// The last stages: a block of 8 kVectors residues.
template <int kVectors, class P>
FHEINFER_AVX512_INLINE void forward_last(uint64_t* x, std::size_t k, const Powers& powers, const P& m) {
    Lanes v[kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i)
        v[i] = load(x + i * kLanes);
    k *= kVectors;
    if constexpr (kVectors == 8) {
        forward_stage<4, true>(v, k, powers, m);
        forward_stage<2, false>(v, k, powers, m);
        forward_stage<1, true>(v, k, powers, m);
    }
    else {
        forward_stage<2, true>(v, k, powers, m);
        forward_stage<1, false>(v, k, powers, m);
    }
    constexpr bool kReduceNext = kVectors == 4;
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; i += 2) {
        Lanes &a = v[i], &b = v[i + 1];
        interleave(a, b);
        forward_butterfly<kReduceNext>(a, b, powers.several<2>(k + i), m);
        interleave(a, b);
        forward_butterfly<!kReduceNext>(a, b, powers.several<4>(2 * (k + i)), m);
        interleave(a, b);
        forward_butterfly<kReduceNext>(a, b, powers.several<8>(4 * (k + i)), m);
        interleave(a, b);
        store(x + i * kLanes, m.canonical(a));
        store(x + (i + 1) * kLanes, m.canonical(b));
    }
}

template <int kVectors, class P>
FHEINFER_AVX512 void forward_block(uint64_t* x, std::size_t size, std::size_t k, const Powers& powers, const P& m) {
    if (size == kVectors * kLanes)
        return forward_last<kVectors>(x, k, powers, m);
    const std::size_t quarter = size / 4;
    const Twiddle first = powers.one(k), low = powers.one(2 * k), high = powers.one(2 * k + 1);
    for (std::size_t i = 0; i < quarter; i += kLanes) {
        Lanes a = load(x + i), b = load(x + quarter + i), c = load(x + 2 * quarter + i), d = load(x + 3 * quarter + i);
        forward_butterfly<true>(a, c, first, m);
        forward_butterfly<false>(b, d, first, m);  // b and d are multiplied next
        forward_butterfly<false>(a, b, low, m);
        forward_butterfly<false>(c, d, high, m);
        store(x + i, a);
        store(x + quarter + i, b);
        store(x + 2 * quarter + i, c);
        store(x + 3 * quarter + i, d);
    }
    for (std::size_t i = 0; i < 4; ++i)
        forward_block<kVectors>(x + i * quarter, quarter, 4 * k + i, powers, m);
}

// The first stages.
template <int kVectors, class P>
FHEINFER_AVX512_INLINE void inverse_first(uint64_t* x, std::size_t k, const Powers& powers, const P& m) {
    constexpr bool kReduceFirst = kVectors == 4;  // so that the last stage does
    Lanes v[kVectors];
    k *= kVectors;
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; i += 2) {
        Lanes &a = v[i], &b = v[i + 1];
        a = load(x + i * kLanes);
        b = load(x + (i + 1) * kLanes);
        deinterleave(a, b);
        inverse_butterfly<kReduceFirst>(a, b, powers.several<8>(4 * (k + i)), m);
        deinterleave(a, b);
        inverse_butterfly<!kReduceFirst>(a, b, powers.several<4>(2 * (k + i)), m);
        deinterleave(a, b);
        inverse_butterfly<kReduceFirst>(a, b, powers.several<2>(k + i), m);
        deinterleave(a, b);
    }
    if constexpr (kVectors == 8) {
        inverse_stage<1, true>(v, k, powers, m);
        inverse_stage<2, false>(v, k, powers, m);
        inverse_stage<4, true>(v, k, powers, m);
    }
    else {
        inverse_stage<1, false>(v, k, powers, m);
        inverse_stage<2, true>(v, k, powers, m);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i)
        store(x + i * kLanes, v[i]);
}

// What the last stage of a block does, and at the end of the whole, where it divides by n.
struct Last {
    Twiddle difference;
    template <class P>
    FHEINFER_AVX512_INLINE void operator()(Lanes& x, Lanes& y, const P& m) const {
        inverse_butterfly<true>(x, y, difference, m);
    }
};

struct LastOverN {
    Twiddle sum, difference;
    template <class P>
    FHEINFER_AVX512_INLINE void operator()(Lanes& x, Lanes& y, const P& m) const {
        const Lanes s = _mm512_add_epi64(x, y), d = _mm512_sub_epi64(_mm512_add_epi64(x, m.most), y);
        x = m.minus_p(m.mask(m.multiply(s, sum.value, sum.quotient)));
        y = m.minus_p(m.mask(m.multiply(d, difference.value, difference.quotient)));
    }
};

template <class LastStage, class P>
FHEINFER_AVX512_INLINE void inverse_join(uint64_t* x, std::size_t size, const Twiddle& low, const Twiddle& high,
                                         const LastStage& last, const P& m) {
    const std::size_t quarter = size / 4;
    for (std::size_t i = 0; i < quarter; i += kLanes) {
        Lanes a = load(x + i), b = load(x + quarter + i), c = load(x + 2 * quarter + i), d = load(x + 3 * quarter + i);
        inverse_butterfly<false>(a, b, low, m);
        inverse_butterfly<false>(c, d, high, m);
        last(a, c, m);
        last(b, d, m);
        store(x + i, a);
        store(x + quarter + i, b);
        store(x + 2 * quarter + i, c);
        store(x + 3 * quarter + i, d);
    }
}

template <int kVectors, class P>
FHEINFER_AVX512 void inverse_block(uint64_t* x, std::size_t size, std::size_t k, const Powers& powers, const P& m) {
    if (size == kVectors * kLanes)
        return inverse_first<kVectors>(x, k, powers, m);
    for (std::size_t i = 0; i < 4; ++i)
        inverse_block<kVectors>(x + i * (size / 4), size / 4, 4 * k + i, powers, m);
    inverse_join(x, size, powers.one(2 * k), powers.one(2 * k + 1), Last{powers.one(k)}, m);
}

template <int kVectors, class P>
FHEINFER_AVX512_INLINE void forward_whole(uint64_t* x, const Ntt& ntt) {
    forward_block<kVectors>(x, ntt.size(), 1, Powers(ntt.powers()), P(ntt.modulus()));
}

template <int kVectors, class P>
FHEINFER_AVX512_INLINE void inverse_whole(uint64_t* x, const Ntt& ntt) {
    const P m(ntt.modulus());
    const Powers powers(ntt.inverse_powers());
    const std::size_t n = ntt.size();
    for (std::size_t i = 0; i < 4; ++i)
        inverse_block<kVectors>(x + i * (n / 4), n / 4, 4 + i, powers, m);
    const Factor &sum = ntt.inverse_n(), &difference = ntt.last_over_n();
    const LastOverN last{{all(sum.value), all(sum.quotient52)}, {all(difference.value), all(difference.quotient52)}};
    inverse_join(x, n, powers.one(2), powers.one(3), last, m);
}

bool narrow(const Ntt& ntt) {
    return ntt.modulus().p >> 49 == 0;
}

// Quarters of quarters come down to 32 or to 64 residues, as n is an odd or an even power of two.
bool odd_power(const Ntt& ntt) {
    return std::countr_zero(ntt.size()) % 2;
}

}  // namespace

FHEINFER_AVX512 void forward_avx512(uint64_t* x, const Ntt& ntt) {
    if (narrow(ntt))
        odd_power(ntt) ? forward_whole<4, NarrowPrime>(x, ntt) : forward_whole<8, NarrowPrime>(x, ntt);
    else
        odd_power(ntt) ? forward_whole<4, WidePrime>(x, ntt) : forward_whole<8, WidePrime>(x, ntt);
}

FHEINFER_AVX512 void inverse_avx512(uint64_t* x, const Ntt& ntt) {
    if (narrow(ntt))
        odd_power(ntt) ? inverse_whole<4, NarrowPrime>(x, ntt) : inverse_whole<8, NarrowPrime>(x, ntt);
    else
        odd_power(ntt) ? inverse_whole<4, WidePrime>(x, ntt) : inverse_whole<8, WidePrime>(x, ntt);
}

}  // namespace fheinfer::ring

#endif
