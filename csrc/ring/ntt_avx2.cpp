// The transform in AVX2 and FMA, in the order of ntt_avx512.cpp: quarters of quarters, down to blocks that are done in
// registers. Between stages the residues are doubles, in the memory of the integers; one stage of two brings them back to
// p / 2 either side of 0.
#if defined(__x86_64__)

#include <bit>

#include "ring/avx2.h"
#include "ring/ntt_kernels.h"

namespace fheinfer::ring {

namespace {

using namespace avx2;

FHEINFER_AVX2_INLINE Lanes load_double(const uint64_t* x) {
    return _mm256_loadu_pd(reinterpret_cast<const double*>(x));
}
FHEINFER_AVX2_INLINE void store_double(uint64_t* x, Lanes v) {
    _mm256_storeu_pd(reinterpret_cast<double*>(x), v);
}

// The powers of one direction: entry k for all lanes; k, k + 1 for two lanes each; k .. k + 3.
struct Powers {
    const uint64_t* value;
    const Prime& m;

    FHEINFER_AVX2_INLINE Lanes one(std::size_t k) const {
        return m.centred(value[k]);
    }
    FHEINFER_AVX2_INLINE Lanes two(std::size_t k) const {
        const Integers pair = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(value + k)));
        return m.centred(to_double(_mm256_permute4x64_epi64(pair, 0b01010000)));
    }
    FHEINFER_AVX2_INLINE Lanes four(std::size_t k) const {
        return m.load_centred(value + k);
    }
};

// x0 x1 x2 x3, y0 y1 y2 y3 become x0 x1 y0 y1, x2 x3 y2 y3: residues 2 apart are in the same lane. Undoes itself.
FHEINFER_AVX2_INLINE void swap_halves(Lanes& x, Lanes& y) {
    const Lanes lo = _mm256_permute2f128_pd(x, y, 0x20);
    y = _mm256_permute2f128_pd(x, y, 0x31);
    x = lo;
}

// x0 x1 x2 x3, y0 y1 y2 y3 become x0 y0 x2 y2, x1 y1 x3 y3. Undoes itself.
FHEINFER_AVX2_INLINE void swap_odd(Lanes& x, Lanes& y) {
    const Lanes even = _mm256_unpacklo_pd(x, y);
    y = _mm256_unpackhi_pd(x, y);
    x = even;
}

// x, y become x + w y, x - w y.
template <bool kReduce>
FHEINFER_AVX2_INLINE void forward_butterfly(Lanes& x, Lanes& y, Lanes w, const Prime& m) {
    const Lanes u = kReduce ? m.reduce(x) : x;
    const Lanes v = m.multiply(y, w);
    x = _mm256_add_pd(u, v);
    y = _mm256_sub_pd(u, v);
}

// x, y become x + y, (x - y) w.
template <bool kReduce>
FHEINFER_AVX2_INLINE void inverse_butterfly(Lanes& x, Lanes& y, Lanes w, const Prime& m) {
    const Lanes sum = _mm256_add_pd(x, y), difference = _mm256_sub_pd(x, y);
    x = kReduce ? m.reduce(sum) : sum;
    y = m.multiply(difference, w);
}

// The last stages: a block of 4 kVectors residues, 2 vectors or 4.
template <int kVectors>
FHEINFER_AVX2_INLINE void forward_last(uint64_t* x, std::size_t k, const Powers& powers, const Prime& m) {
    Lanes v[kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i)
        v[i] = load_double(x + i * kLanes);
    k *= kVectors;
    if constexpr (kVectors == 4) {
        const Lanes w = powers.one(k / 4);
        forward_butterfly<true>(v[0], v[2], w, m);
        forward_butterfly<false>(v[1], v[3], w, m);  // both are multiplied next
    }
#pragma GCC unroll 2
    for (int i = 0; i < kVectors; i += 2) {
        Lanes &a = v[i], &b = v[i + 1];
        forward_butterfly<kVectors == 2>(a, b, powers.one((k + i) / 2), m);
        swap_halves(a, b);
        forward_butterfly<true>(a, b, powers.two(k + i), m);
        swap_odd(a, b);
        forward_butterfly<false>(a, b, powers.four(2 * (k + i)), m);
        swap_odd(a, b);
        swap_halves(a, b);
        store(x + i * kLanes, m.canonical(m.reduce(a)));
        store(x + (i + 1) * kLanes, m.canonical(m.reduce(b)));
    }
}

// Two stages on a block of which the residues are integers at first. Those between stages are below 2.2p: b and d, which
// are multiplied in both stages or in the second, need no reduction.
template <bool kFirst>
FHEINFER_AVX2_INLINE void forward_split(uint64_t* x, std::size_t size, std::size_t k, const Powers& powers, const Prime& m) {
    const std::size_t quarter = size / 4;
    const Lanes first = powers.one(k), low = powers.one(2 * k), high = powers.one(2 * k + 1);
    for (std::size_t i = 0; i < quarter; i += kLanes) {
        Lanes v[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
            v[j] = kFirst ? to_double(load(x + j * quarter + i)) : load_double(x + j * quarter + i);
        forward_butterfly<true>(v[0], v[2], first, m);
        forward_butterfly<false>(v[1], v[3], first, m);
        forward_butterfly<false>(v[0], v[1], low, m);
        forward_butterfly<false>(v[2], v[3], high, m);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
            store_double(x + j * quarter + i, v[j]);
    }
}

template <int kVectors>
FHEINFER_AVX2 void forward_block(uint64_t* x, std::size_t size, std::size_t k, const Powers& powers, const Prime& m) {
    if (size == kVectors * kLanes)
        return forward_last<kVectors>(x, k, powers, m);
    forward_split<false>(x, size, k, powers, m);
    for (std::size_t i = 0; i < 4; ++i)
        forward_block<kVectors>(x + i * (size / 4), size / 4, 4 * k + i, powers, m);
}

template <int kVectors>
FHEINFER_AVX2_INLINE void forward_whole(uint64_t* x, const Ntt& ntt) {
    const Prime m(ntt.modulus());
    const Powers powers{ntt.powers().value.data(), m};
    const std::size_t quarter = ntt.size() / 4;
    forward_split<true>(x, ntt.size(), 1, powers, m);
    for (std::size_t i = 0; i < 4; ++i)
        forward_block<kVectors>(x + i * quarter, quarter, 4 + i, powers, m);
}

// The first stages.
template <int kVectors>
FHEINFER_AVX2_INLINE void inverse_first(uint64_t* x, std::size_t k, const Powers& powers, const Prime& m) {
    Lanes v[kVectors];
    k *= kVectors;
#pragma GCC unroll 2
    for (int i = 0; i < kVectors; i += 2) {
        Lanes &a = v[i], &b = v[i + 1];
        a = to_double(load(x + i * kLanes));
        b = to_double(load(x + (i + 1) * kLanes));
        swap_halves(a, b);
        swap_odd(a, b);
        inverse_butterfly<false>(a, b, powers.four(2 * (k + i)), m);
        swap_odd(a, b);
        inverse_butterfly<true>(a, b, powers.two(k + i), m);
        swap_halves(a, b);
        inverse_butterfly<kVectors == 2>(a, b, powers.one((k + i) / 2), m);
    }
    if constexpr (kVectors == 4) {
        const Lanes w = powers.one(k / 4);
        inverse_butterfly<true>(v[0], v[2], w, m);
        inverse_butterfly<true>(v[1], v[3], w, m);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i)
        store_double(x + i * kLanes, v[i]);
}

// Two stages on a block. Residues between stages are at most p; kLast: the end of the transform, where sum and difference
// are multiplied by what divides them by n, and become integers.
template <bool kLast>
FHEINFER_AVX2_INLINE void inverse_join(uint64_t* x, std::size_t size, std::size_t k, const Powers& powers, Lanes sum,
                                       Lanes difference, const Prime& m) {
    const std::size_t quarter = size / 4;
    const Lanes low = powers.one(2 * k), high = powers.one(2 * k + 1);
    for (std::size_t i = 0; i < quarter; i += kLanes) {
        Lanes v[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
            v[j] = load_double(x + j * quarter + i);
        inverse_butterfly<false>(v[0], v[1], low, m);
        inverse_butterfly<false>(v[2], v[3], high, m);
        inverse_butterfly<!kLast>(v[0], v[2], difference, m);
        inverse_butterfly<!kLast>(v[1], v[3], difference, m);
        if constexpr (kLast) {
            v[0] = m.multiply(v[0], sum);
            v[1] = m.multiply(v[1], sum);
        }
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
            if constexpr (kLast)
                store(x + j * quarter + i, m.canonical(m.reduce(v[j])));
            else
                store_double(x + j * quarter + i, v[j]);
    }
}

template <int kVectors>
FHEINFER_AVX2 void inverse_block(uint64_t* x, std::size_t size, std::size_t k, const Powers& powers, const Prime& m) {
    if (size == kVectors * kLanes)
        return inverse_first<kVectors>(x, k, powers, m);
    for (std::size_t i = 0; i < 4; ++i)
        inverse_block<kVectors>(x + i * (size / 4), size / 4, 4 * k + i, powers, m);
    inverse_join<false>(x, size, k, powers, Lanes{}, powers.one(k), m);
}

template <int kVectors>
FHEINFER_AVX2_INLINE void inverse_whole(uint64_t* x, const Ntt& ntt) {
    const Prime m(ntt.modulus());
    const Powers powers{ntt.inverse_powers().value.data(), m};
    const std::size_t quarter = ntt.size() / 4;
    for (std::size_t i = 0; i < 4; ++i)
        inverse_block<kVectors>(x + i * quarter, quarter, 4 + i, powers, m);
    inverse_join<true>(x, ntt.size(), 1, powers, m.centred(ntt.inverse_n().value), m.centred(ntt.last_over_n().value), m);
}

}  // namespace

// Quarters of quarters come down to 8 or to 16 residues, as n is an odd or an even power of two.
FHEINFER_AVX2 void forward_avx2(uint64_t* x, const Ntt& ntt) {
    if (std::countr_zero(ntt.size()) % 2)
        forward_whole<2>(x, ntt);
    else
        forward_whole<4>(x, ntt);
}

FHEINFER_AVX2 void inverse_avx2(uint64_t* x, const Ntt& ntt) {
    if (std::countr_zero(ntt.size()) % 2)
        inverse_whole<2>(x, ntt);
    else
        inverse_whole<4>(x, ntt);
}

}  // namespace fheinfer::ring

#endif
