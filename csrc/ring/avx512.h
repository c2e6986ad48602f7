// Eight residues at a time with AVX-512 IFMA, whose multipliers take the low 52 bits of each lane and add either half of
// the product to a 64-bit lane. Included only by files that hold AVX-512 kernels.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstddef>

#include "ring/modulus.h"

// GCC 12 takes the lanes that its own intrinsics leave undefined for a mistake (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

// On every function that uses these instructions; the rest of the program runs on any processor.
#define FHEINFER_AVX512        __attribute__((target("avx512f,avx512dq,avx512vl,avx512ifma")))
#define FHEINFER_AVX512_INLINE __attribute__((target("avx512f,avx512dq,avx512vl,avx512ifma"), always_inline)) inline

namespace fheinfer::ring::avx512 {

using Lanes = __m512i;

inline constexpr std::size_t kLanes = 8;

FHEINFER_AVX512_INLINE Lanes load(const uint64_t* x) {
    return _mm512_loadu_si512(x);
}

FHEINFER_AVX512_INLINE void store(uint64_t* x, Lanes v) {
    _mm512_storeu_si512(x, v);
}

FHEINFER_AVX512_INLINE Lanes all(uint64_t v) {
    return _mm512_set1_epi64(static_cast<long long>(v));
}

// What the lanes need of a prime.
struct Prime {
    Lanes p, twice, minus, inverse52;  // minus: 2^52 - p
    Lanes low52;                       // the mask of the low 52 bits

    FHEINFER_AVX512_INLINE explicit Prime(const Modulus& m)
        : p(all(m.p)),
          twice(all(2 * m.p)),
          minus(all((uint64_t{1} << 52) - m.p)),
          inverse52(all(m.inverse52)),
          low52(all((uint64_t{1} << 52) - 1)) {}

    FHEINFER_AVX512_INLINE Lanes mask(Lanes x) const {
        return _mm512_and_si512(x, low52);
    }
    // Subtracts p, or 2p, where that leaves no less than 0: the difference wraps to a large number elsewhere.
    FHEINFER_AVX512_INLINE Lanes minus_p(Lanes x) const {
        return _mm512_min_epu64(x, _mm512_sub_epi64(x, p));
    }
    FHEINFER_AVX512_INLINE Lanes minus_2p(Lanes x) const {
        return _mm512_min_epu64(x, _mm512_sub_epi64(x, twice));
    }
    // The low 52 bits of x modulo p: below 2p modulo 2^52, and anything above bit 52. Adding q * (2^52 - p) subtracts
    // q * p there.
    FHEINFER_AVX512_INLINE Lanes reduce(Lanes x) const {
        return _mm512_madd52lo_epu64(x, _mm512_madd52hi_epu64(_mm512_setzero_si512(), x, inverse52), minus);
    }
    // x * w modulo p, for any x below 2^52 and w below p with its quotient52: as reduce.
    FHEINFER_AVX512_INLINE Lanes multiply(Lanes x, Lanes w, Lanes quotient52) const {
        const Lanes zero = _mm512_setzero_si512();
        const Lanes q    = _mm512_madd52hi_epu64(zero, x, quotient52);
        return _mm512_madd52lo_epu64(_mm512_madd52lo_epu64(zero, x, w), q, minus);
    }
};

// Reduces low + 2^52 high, where low is any 64-bit number and high + 2^12 is at most 2^kHighBits: 52 or 60, which takes
// longer.
template <int kHighBits>
struct Reducer {
    Prime m;
    Lanes r52, r52_52;

    FHEINFER_AVX512_INLINE explicit Reducer(const Modulus& m) : m(m), r52(all(m.r52)), r52_52(all(m.r52_52)) {}

    FHEINFER_AVX512_INLINE Lanes operator()(Lanes low, Lanes high) const {
        high = _mm512_add_epi64(high, _mm512_srli_epi64(low, 52));
        if constexpr (kHighBits > 52) {
            const Lanes top = m.multiply(_mm512_srli_epi64(high, 52), r52, r52_52);
            high            = _mm512_add_epi64(m.reduce(high), top);  // below 4p
        }
        const Lanes sum = _mm512_add_epi64(m.reduce(low), m.multiply(high, r52, r52_52));  // below 4p
        return m.minus_p(m.minus_2p(m.mask(sum)));
    }
};

}  // namespace fheinfer::ring::avx512

#endif
