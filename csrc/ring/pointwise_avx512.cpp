#if defined(__x86_64__)

#include "ring/avx512.h"
#include "ring/pointwise_kernels.h"

namespace fheinfer::ring::avx512 {

FHEINFER_AVX512 void add(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& modulus) {
    const Prime m(modulus);
    for (std::size_t i = 0; i < n; i += kLanes)
        store(out + i, m.minus_p(_mm512_add_epi64(load(x + i), load(y + i))));
}

FHEINFER_AVX512 void subtract(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& modulus) {
    const Prime m(modulus);
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Lanes d = _mm512_sub_epi64(load(x + i), load(y + i));  // wraps below 0
        store(out + i, _mm512_min_epu64(d, _mm512_add_epi64(d, m.p)));
    }
}

FHEINFER_AVX512 void multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& modulus) {
    const Reducer<52> reduce(modulus);
    const Lanes zero = _mm512_setzero_si512();
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Lanes a = load(x + i), b = load(y + i);
        store(out + i, reduce(_mm512_madd52lo_epu64(zero, a, b), _mm512_madd52hi_epu64(zero, a, b)));
    }
}

FHEINFER_AVX512 void multiply(uint64_t* out, const uint64_t* x, const Factor& f, std::size_t n, const Modulus& modulus) {
    const Prime m(modulus);
    const Lanes w = all(f.value), quotient = all(f.quotient52);
    for (std::size_t i = 0; i < n; i += kLanes)
        store(out + i, m.minus_p(m.mask(m.multiply(load(x + i), w, quotient))));
}

FHEINFER_AVX512 void subtract_multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, const Factor& f, std::size_t n,
                                       const Modulus& modulus) {
    const Prime m(modulus);
    const Lanes w = all(f.value), quotient = all(f.quotient52);
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Lanes d = _mm512_sub_epi64(_mm512_add_epi64(load(x + i), m.p), load(y + i));
        store(out + i, m.minus_p(m.mask(m.multiply(d, w, quotient))));
    }
}

FHEINFER_AVX512 void switch_modulus(uint64_t* out, const uint64_t* x, std::size_t n, const Modulus& from,
                                    const Modulus& modulus) {
    const Prime m(modulus);
    const Lanes half = all(from.p >> 1), shift = all(modulus.p - modulus.reduce(from.p));
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Lanes v = load(x + i);
        const Lanes s = _mm512_mask_add_epi64(v, _mm512_cmpgt_epu64_mask(v, half), v, shift);
        store(out + i, m.minus_p(m.mask(m.reduce(s))));
    }
}

FHEINFER_AVX512 void lift(uint64_t* out, const int64_t* x, std::size_t n, const Modulus& modulus) {
    const Reducer<52> reduce(modulus);
    const Prime m(modulus);
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Lanes v = _mm512_loadu_si512(x + i);
        const Lanes r = reduce(_mm512_abs_epi64(v), _mm512_setzero_si512());
        store(out + i, m.minus_p(_mm512_mask_sub_epi64(r, _mm512_movepi64_mask(v), m.p, r)));
    }
}

FHEINFER_AVX512 bool all_below(const uint64_t* x, std::size_t n, const Modulus& m) {
    Lanes largest = _mm512_setzero_si512();
    for (std::size_t i = 0; i < n; i += kLanes)
        largest = _mm512_max_epu64(largest, load(x + i));
    return _mm512_cmpge_epu64_mask(largest, all(m.p)) == 0;
}

}  // namespace fheinfer::ring::avx512

#endif
