#include "ring/convert.h"

#include "base/cpu.h"
#include "ring/modulus.h"

#if defined(__x86_64__)
#include "ring/avx2.h"
#include "ring/avx512.h"
#endif

namespace fheinfer::ring {

namespace {

void rounded_quotient_portable(uint64_t* out, const uint64_t* const* ys, const uint64_t* fractions, std::size_t terms, int bits,
                               std::size_t n) {
    const uint64_t half = uint64_t{1} << (bits - 1);
    for (std::size_t i = 0; i < n; ++i) {
        uint64_t sum = half;
        for (std::size_t t = 0; t < terms; ++t)
            sum += static_cast<uint64_t>((uint128{ys[t][i]} * fractions[t]) >> 52);
        out[i] = sum >> bits;
    }
}

#if defined(__x86_64__)

// As in accumulate_avx2.cpp, the bits of y f + 1.5 * 2^104 count multiples of 2^52, to the nearest: one too many where
// what is left is below 0.
FHEINFER_AVX2 void rounded_quotient_avx2(uint64_t* out, const uint64_t* const* ys, const uint64_t* fractions, std::size_t terms,
                                         int bits, std::size_t n) {
    using namespace avx2;
    const Lanes multiples = all(0x1.8p104);
    for (std::size_t i = 0; i < n; i += kLanes) {
        Integers sum = all(uint64_t{1} << (bits - 1));
        for (std::size_t t = 0; t < terms; ++t) {
            const Lanes y = to_double(load(ys[t] + i)), f = all(static_cast<double>(fractions[t]));
            const Lanes high = _mm256_fmadd_pd(y, f, multiples);
            const Lanes left = _mm256_fmadd_pd(y, f, _mm256_sub_pd(multiples, high));
            const Lanes less = _mm256_cmp_pd(left, _mm256_setzero_pd(), _CMP_LT_OQ);
            const Integers count = _mm256_sub_epi64(_mm256_castpd_si256(high), _mm256_castpd_si256(multiples));
            sum = _mm256_add_epi64(sum, _mm256_add_epi64(count, _mm256_castpd_si256(less)));  // less: -1 or 0
        }
        store(out + i, _mm256_srl_epi64(sum, _mm_cvtsi32_si128(bits)));
    }
}

FHEINFER_AVX512 void rounded_quotient_avx512(uint64_t* out, const uint64_t* const* ys, const uint64_t* fractions,
                                             std::size_t terms, int bits, std::size_t n) {
    using namespace avx512;
    for (std::size_t i = 0; i < n; i += kLanes) {
        Lanes sum = all(uint64_t{1} << (bits - 1));
        for (std::size_t t = 0; t < terms; ++t)
            sum = _mm512_madd52hi_epu64(sum, load(ys[t] + i), all(fractions[t]));
        store(out + i, _mm512_srl_epi64(sum, _mm_cvtsi32_si128(bits)));
    }
}

#endif

}  // namespace

void rounded_quotient(uint64_t* out, const uint64_t* const* ys, const uint64_t* fractions, std::size_t terms, int bits, std::size_t n) {
#if defined(__x86_64__)
    if (instruction_set() == InstructionSet::kAvx512)
        return rounded_quotient_avx512(out, ys, fractions, terms, bits, n);
    if (instruction_set() == InstructionSet::kAvx2)
        return rounded_quotient_avx2(out, ys, fractions, terms, bits, n);
#endif
    rounded_quotient_portable(out, ys, fractions, terms, bits, n);
}

}  // namespace fheinfer::ring
