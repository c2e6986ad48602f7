#if defined(__x86_64__)

#include "ring/avx2.h"
#include "ring/pointwise_kernels.h"

namespace fheinfer::ring::avx2 {

namespace {

// Where a > b, c.
FHEINFER_AVX2_INLINE Integers where_greater(Integers a, Integers b, Integers c) {
    return _mm256_and_si256(_mm256_cmpgt_epi64(a, b), c);
}

}  // namespace

FHEINFER_AVX2 void add(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m) {
    const Integers p = all(m.p), last = all(m.p - 1);
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Integers s = _mm256_add_epi64(load(x + i), load(y + i));
        store(out + i, _mm256_sub_epi64(s, where_greater(s, last, p)));
    }
}

FHEINFER_AVX2 void subtract(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m) {
    const Integers p = all(m.p), zero = _mm256_setzero_si256();
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Integers d = _mm256_sub_epi64(load(x + i), load(y + i));
        store(out + i, _mm256_add_epi64(d, where_greater(zero, d, p)));
    }
}

FHEINFER_AVX2 void multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& modulus) {
    const Prime m(modulus);
    for (std::size_t i = 0; i < n; i += kLanes)
        store(out + i, m.canonical(m.multiply(to_double(load(x + i)), to_double(load(y + i)))));
}

FHEINFER_AVX2 void multiply(uint64_t* out, const uint64_t* x, const Factor& f, std::size_t n, const Modulus& modulus) {
    const Prime m(modulus);
    const Lanes w = m.centred(f.value);
    for (std::size_t i = 0; i < n; i += kLanes)
        store(out + i, m.canonical(m.multiply(to_double(load(x + i)), w)));
}

FHEINFER_AVX2 void subtract_multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, const Factor& f, std::size_t n,
                                     const Modulus& modulus) {
    const Prime m(modulus);
    const Lanes w = m.centred(f.value);
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Lanes d = _mm256_sub_pd(to_double(load(x + i)), to_double(load(y + i)));
        store(out + i, m.canonical(m.multiply(d, w)));
    }
}

FHEINFER_AVX2 void switch_modulus(uint64_t* out, const uint64_t* x, std::size_t n, const Modulus& from,
                                  const Modulus& modulus) {
    const Prime m(modulus), source(from);
    for (std::size_t i = 0; i < n; i += kLanes)
        store(out + i, m.canonical(m.reduce(source.load_centred(x + i))));
}

FHEINFER_AVX2 void lift(uint64_t* out, const int64_t* x, std::size_t n, const Modulus& modulus) {
    const Prime m(modulus);
    const Lanes r32       = m.centred(modulus.reduce(uint64_t{1} << 32));
    const Integers zero   = _mm256_setzero_si256(), low32 = all(uint64_t{0xffffffff});
    const Lanes sign_bits = all(-0.0);
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Integers v        = _mm256_loadu_si256(reinterpret_cast<const Integers*>(x + i));
        const Integers negative = _mm256_cmpgt_epi64(zero, v);
        const Integers size     = _mm256_sub_epi64(_mm256_xor_si256(v, negative), negative);
        const Lanes high = to_double(_mm256_srli_epi64(size, 32)), low = to_double(_mm256_and_si256(size, low32));
        const Lanes r = m.reduce(_mm256_add_pd(m.multiply(high, r32), low));
        store(out + i, m.canonical(_mm256_xor_pd(r, _mm256_and_pd(_mm256_castsi256_pd(negative), sign_bits))));
    }
}

FHEINFER_AVX2 bool all_below(const uint64_t* x, std::size_t n, const Modulus& m) {
    // The comparison is one of signed numbers: words of 2^63 and more are taken for negative ones, and seen by their sign.
    const Integers last = all(m.p - 1);
    Integers seen       = _mm256_setzero_si256();
    for (std::size_t i = 0; i < n; i += kLanes) {
        const Integers v = load(x + i);
        seen             = _mm256_or_si256(seen, _mm256_or_si256(v, _mm256_cmpgt_epi64(v, last)));
    }
    return _mm256_movemask_pd(_mm256_castsi256_pd(seen)) == 0;
}

}  // namespace fheinfer::ring::avx2

#endif
