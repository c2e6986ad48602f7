// The transform in AVX-512 IFMA. A block of the transform is halved into four blocks (two stages at once, so that each
// residue is loaded and stored half as often), and each of them recursively: blocks soon fit the first cache. Blocks of 32
// or 64 residues are done in registers.
//
// The block that uses powers[k] in its first stage uses powers[2k], powers[2k + 1] in its second, and its quarters are the
// blocks of 4k .. 4k + 3. The whole is block 1.
//
// Residues are below 4p < 2^52 between stages, modulo 2^52: a lane may hold anything above bit 52, which the multipliers do
// not see; only before comparing is it masked off.
#if defined(__x86_64__)

#include <bit>

#include "ring/avx512.h"
#include "ring/ntt_forms.h"

namespace fheinfer::ring {

namespace {

using namespace avx512;

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
FHEINFER_AVX512_INLINE void forward_butterfly(Lanes& x, Lanes& y, const Twiddle& w, const Prime& m) {
    const Lanes u    = m.minus_2p(m.mask(x));
    const Lanes both = _mm512_add_epi64(u, _mm512_add_epi64(u, m.twice));
    x = m.multiply_add(u, y, w.value, w.quotient);
    y = _mm512_sub_epi64(both, x);
}

// x, y become x + y, (x - y) w, all below 2p.
FHEINFER_AVX512_INLINE void inverse_butterfly(Lanes& x, Lanes& y, const Twiddle& w, const Prime& m) {
    const Lanes difference = _mm512_sub_epi64(_mm512_add_epi64(x, m.twice), y);
    x = m.minus_2p(m.mask(_mm512_add_epi64(x, y)));
    y = m.multiply(difference, w.value, w.quotient);
}

// The last stages: a block of 8 kVectors residues.
template <int kVectors>
FHEINFER_AVX512_INLINE void forward_last(uint64_t* x, std::size_t k, const Powers& powers, const Prime& m) {
    Lanes v[kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i)
        v[i] = load(x + i * kLanes);
    k *= kVectors;
#pragma GCC unroll 8
    for (int half = kVectors / 2; half; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < kVectors; ++i)
            if ((i & half) == 0)
                forward_butterfly(v[i], v[i + half], powers.one((k + i) / (2 * half)), m);
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; i += 2) {
        Lanes &a = v[i], &b = v[i + 1];
        interleave(a, b);
        forward_butterfly(a, b, powers.several<2>(k + i), m);
        interleave(a, b);
        forward_butterfly(a, b, powers.several<4>(2 * (k + i)), m);
        interleave(a, b);
        forward_butterfly(a, b, powers.several<8>(4 * (k + i)), m);
        interleave(a, b);
        store(x + i * kLanes, m.minus_p(m.minus_2p(m.mask(a))));
        store(x + (i + 1) * kLanes, m.minus_p(m.minus_2p(m.mask(b))));
    }
}

template <int kVectors>
FHEINFER_AVX512 void forward_block(uint64_t* x, std::size_t size, std::size_t k, const Powers& powers, const Prime& m) {
    if (size == kVectors * kLanes)
        return forward_last<kVectors>(x, k, powers, m);
    const std::size_t quarter = size / 4;
    const Twiddle first = powers.one(k), low = powers.one(2 * k), high = powers.one(2 * k + 1);
    for (std::size_t i = 0; i < quarter; i += kLanes) {
        Lanes a = load(x + i), b = load(x + quarter + i), c = load(x + 2 * quarter + i), d = load(x + 3 * quarter + i);
        forward_butterfly(a, c, first, m);
        forward_butterfly(b, d, first, m);
        forward_butterfly(a, b, low, m);
        forward_butterfly(c, d, high, m);
        store(x + i, a);
        store(x + quarter + i, b);
        store(x + 2 * quarter + i, c);
        store(x + 3 * quarter + i, d);
    }
    for (std::size_t i = 0; i < 4; ++i)
        forward_block<kVectors>(x + i * quarter, quarter, 4 * k + i, powers, m);
}

// The first stages.
template <int kVectors>
FHEINFER_AVX512_INLINE void inverse_first(uint64_t* x, std::size_t k, const Powers& powers, const Prime& m) {
    Lanes v[kVectors];
    k *= kVectors;
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; i += 2) {
        Lanes &a = v[i], &b = v[i + 1];
        a = load(x + i * kLanes);
        b = load(x + (i + 1) * kLanes);
        deinterleave(a, b);
        inverse_butterfly(a, b, powers.several<8>(4 * (k + i)), m);
        deinterleave(a, b);
        inverse_butterfly(a, b, powers.several<4>(2 * (k + i)), m);
        deinterleave(a, b);
        inverse_butterfly(a, b, powers.several<2>(k + i), m);
        deinterleave(a, b);
    }
#pragma GCC unroll 8
    for (int half = 1; half < kVectors; half *= 2)
#pragma GCC unroll 8
        for (int i = 0; i < kVectors; ++i)
            if ((i & half) == 0)
                inverse_butterfly(v[i], v[i + half], powers.one((k + i) / (2 * half)), m);
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i)
        store(x + i * kLanes, v[i]);
}

// What the last stage of a block does, and at the end of the whole, where it divides by n.
struct Last {
    Twiddle difference;
    FHEINFER_AVX512_INLINE void operator()(Lanes& x, Lanes& y, const Prime& m) const {
        inverse_butterfly(x, y, difference, m);
    }
};

struct LastOverN {
    Twiddle sum, difference;
    FHEINFER_AVX512_INLINE void operator()(Lanes& x, Lanes& y, const Prime& m) const {
        const Lanes s = _mm512_add_epi64(x, y), d = _mm512_sub_epi64(_mm512_add_epi64(x, m.twice), y);
        x = m.minus_p(m.mask(m.multiply(s, sum.value, sum.quotient)));
        y = m.minus_p(m.mask(m.multiply(d, difference.value, difference.quotient)));
    }
};

template <class LastStage>
FHEINFER_AVX512_INLINE void inverse_join(uint64_t* x, std::size_t size, const Twiddle& low, const Twiddle& high,
                                         const LastStage& last, const Prime& m) {
    const std::size_t quarter = size / 4;
    for (std::size_t i = 0; i < quarter; i += kLanes) {
        Lanes a = load(x + i), b = load(x + quarter + i), c = load(x + 2 * quarter + i), d = load(x + 3 * quarter + i);
        inverse_butterfly(a, b, low, m);
        inverse_butterfly(c, d, high, m);
        last(a, c, m);
        last(b, d, m);
        store(x + i, a);
        store(x + quarter + i, b);
        store(x + 2 * quarter + i, c);
        store(x + 3 * quarter + i, d);
    }
}

template <int kVectors>
FHEINFER_AVX512 void inverse_block(uint64_t* x, std::size_t size, std::size_t k, const Powers& powers, const Prime& m) {
    if (size == kVectors * kLanes)
        return inverse_first<kVectors>(x, k, powers, m);
    for (std::size_t i = 0; i < 4; ++i)
        inverse_block<kVectors>(x + i * (size / 4), size / 4, 4 * k + i, powers, m);
    inverse_join(x, size, powers.one(2 * k), powers.one(2 * k + 1), Last{powers.one(k)}, m);
}

template <int kVectors>
FHEINFER_AVX512 void inverse_whole(uint64_t* x, const Ntt& ntt) {
    const Prime m(ntt.modulus());
    const Powers powers(ntt.inverse_powers());
    const std::size_t n = ntt.size();
    for (std::size_t i = 0; i < 4; ++i)
        inverse_block<kVectors>(x + i * (n / 4), n / 4, 4 + i, powers, m);
    const Factor &sum = ntt.inverse_n(), &difference = ntt.last_over_n();
    const LastOverN last{{all(sum.value), all(sum.quotient52)}, {all(difference.value), all(difference.quotient52)}};
    inverse_join(x, n, powers.one(2), powers.one(3), last, m);
}

}  // namespace

// Four blocks at a time come down from n to 32 or to 64, as n is an odd or an even power of two.
FHEINFER_AVX512 void forward_avx512(uint64_t* x, const Ntt& ntt) {
    const Prime m(ntt.modulus());
    const Powers powers(ntt.powers());
    if (std::countr_zero(ntt.size()) % 2)
        forward_block<4>(x, ntt.size(), 1, powers, m);
    else
        forward_block<8>(x, ntt.size(), 1, powers, m);
}

FHEINFER_AVX512 void inverse_avx512(uint64_t* x, const Ntt& ntt) {
    if (std::countr_zero(ntt.size()) % 2)
        inverse_whole<4>(x, ntt);
    else
        inverse_whole<8>(x, ntt);
}

}  // namespace fheinfer::ring

#endif
