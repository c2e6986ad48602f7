// Four residues at a time with AVX2 and FMA, as doubles: AVX2 has no wide integer multiplier, while a fused multiply-add
// gives the exact low part of a product. Included only by files that hold AVX2 kernels.
//
// Residues in these kernels are signed integers of a few p, which a double holds exactly up to 2^53.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstddef>

#include "ring/modulus.h"

// On every function that uses these instructions; the rest of the program runs on any processor.
#define FHEINFER_AVX2        __attribute__((target("avx2,fma")))
#define FHEINFER_AVX2_INLINE __attribute__((target("avx2,fma"), always_inline)) inline

namespace fheinfer::ring::avx2 {

using Integers = __m256i;
using Lanes    = __m256d;

inline constexpr std::size_t kLanes = 4;

FHEINFER_AVX2_INLINE Lanes all(double v) {
    return _mm256_set1_pd(v);
}
FHEINFER_AVX2_INLINE Integers all(uint64_t v) {
    return _mm256_set1_epi64x(static_cast<long long>(v));
}

FHEINFER_AVX2_INLINE Integers load(const uint64_t* x) {
    return _mm256_loadu_si256(reinterpret_cast<const Integers*>(x));
}
FHEINFER_AVX2_INLINE void store(uint64_t* x, Integers v) {
    _mm256_storeu_si256(reinterpret_cast<Integers*>(x), v);
}

// Integers below 2^52 are the last bits of doubles between 2^52 and 2^53.
FHEINFER_AVX2_INLINE Lanes to_double(Integers x) {
    const Lanes two52 = all(0x1p52);
    return _mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(x, _mm256_castpd_si256(two52))), two52);
}
FHEINFER_AVX2_INLINE Integers to_integer(Lanes x) {
    const Lanes two52 = all(0x1p52);
    return _mm256_xor_si256(_mm256_castpd_si256(_mm256_add_pd(x, two52)), _mm256_castpd_si256(two52));
}

// What the lanes need of a prime.
struct Prime {
    Lanes p, half, inverse;
    Lanes round;  // adding 1.5 * 2^52 rounds numbers of at most 2^51 to the nearest integer

    FHEINFER_AVX2_INLINE explicit Prime(const Modulus& m)
        : p(all(static_cast<double>(m.p))),
          half(all(static_cast<double>(m.p / 2))),
          inverse(all(1.0 / static_cast<double>(m.p))),
          round(all(0x1.8p52)) {}

    // x / p, at most 2^51, to the nearest integer or the next.
    FHEINFER_AVX2_INLINE Lanes quotient(Lanes x) const {
        return _mm256_sub_pd(_mm256_fmadd_pd(x, inverse, round), round);
    }
    // x of a few p, to about p / 2 either side of 0.
    FHEINFER_AVX2_INLINE Lanes reduce(Lanes x) const {
        return _mm256_fnmadd_pd(quotient(x), p, x);
    }
    // x * w modulo p, for |x * w / p| of at most 2^51: at most p (1/2 + |x * w / p| / 2^52). So at most p for x of 4p and w
    // of p / 2.
    FHEINFER_AVX2_INLINE Lanes multiply(Lanes x, Lanes w) const {
        const Lanes high = _mm256_mul_pd(x, w);
        const Lanes low  = _mm256_fmsub_pd(x, w, high);
        return _mm256_add_pd(_mm256_fnmadd_pd(quotient(high), p, high), low);
    }
    // A canonical residue, to p / 2 either side of 0.
    FHEINFER_AVX2_INLINE Lanes centred(Lanes x) const {
        return _mm256_sub_pd(x, _mm256_and_pd(_mm256_cmp_pd(x, half, _CMP_GT_OQ), p));
    }
    FHEINFER_AVX2_INLINE Lanes load_centred(const uint64_t* x) const {
        return centred(to_double(load(x)));
    }
    FHEINFER_AVX2_INLINE Lanes centred(uint64_t x) const {
        return centred(all(static_cast<double>(x)));
    }
    // A residue of p / 2 either side of 0, and a little, to a canonical one.
    FHEINFER_AVX2_INLINE Integers canonical(Lanes x) const {
        return to_integer(_mm256_add_pd(x, _mm256_and_pd(_mm256_cmp_pd(x, _mm256_setzero_pd(), _CMP_LT_OQ), p)));
    }
};

}  // namespace fheinfer::ring::avx2

#endif
