// Sums of products in AVX-512 IFMA: the low and the high 52 bits of the products are added up in two lanes of 64 bits, and
// reduced once.
#if defined(__x86_64__)

#include <bit>

#include "ring/accumulate_kernels.h"
#include "ring/avx512.h"

namespace fheinfer::ring {

namespace {

using namespace avx512;

// The high halves of products of numbers below 2^50 are below 2^48: this many, and what the low halves carry, are below
// 2^52.
constexpr std::size_t kFewTerms = 15;

// The second operands of the products of residues i .. i + 7.
struct Constants {
    const uint64_t* cs;

    FHEINFER_AVX512_INLINE Lanes operator()(std::size_t t, std::size_t) const {
        return all(cs[t]);
    }
};

// kRepeat: of each residue in 8 lanes.
template <int kRepeat>
struct Repeated {
    const uint64_t* const* ys;
    int shift;  // log2 of repeat

    FHEINFER_AVX512_INLINE Lanes operator()(std::size_t t, std::size_t i) const {
        const uint64_t* y = ys[t] + (i >> shift);
        if constexpr (kRepeat == 1)
            return load(y);
        else if constexpr (kRepeat == 2)
            return _mm512_permutexvar_epi64(
                _mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3),
                _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(y))));
        else if constexpr (kRepeat == 4)
            return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1),
                                            _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(y))));
        else
            return all(*y);
    }
};

// The same, backwards from the ends of the ys.
template <int kRepeat>
struct Mirrored {
    const uint64_t* const* ends;
    int shift;

    FHEINFER_AVX512_INLINE Lanes operator()(std::size_t t, std::size_t i) const {
        const uint64_t* end = ends[t] - (i >> shift);
        if constexpr (kRepeat == 1)
            return _mm512_permutexvar_epi64(_mm512_setr_epi64(7, 6, 5, 4, 3, 2, 1, 0), load(end - 8));
        else if constexpr (kRepeat == 2)
            return _mm512_permutexvar_epi64(
                _mm512_setr_epi64(3, 3, 2, 2, 1, 1, 0, 0),
                _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(end - 4))));
        else if constexpr (kRepeat == 4)
            return _mm512_permutexvar_epi64(_mm512_setr_epi64(1, 1, 1, 1, 0, 0, 0, 0),
                                            _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(end - 2))));
        else
            return all(end[-1]);
    }
};

// kVectors vectors at once: enough independent sums to keep the multipliers busy.
template <int kVectors, class Second, class Reduce>
FHEINFER_AVX512_INLINE void sum(uint64_t* out, const uint64_t* const* xs, const Second& second, std::size_t terms,
                                bool accumulate, std::size_t i, const Reduce& reduce) {
    Lanes low[kVectors], high[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
        low[v]  = accumulate ? load(out + i + v * kLanes) : _mm512_setzero_si512();
        high[v] = _mm512_setzero_si512();
    }
    for (std::size_t t = 0; t < terms; ++t) {
        const uint64_t* x = xs[t] + i;
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            const Lanes a = load(x + v * kLanes), b = second(t, i + v * kLanes);
            low[v]  = _mm512_madd52lo_epu64(low[v], a, b);
            high[v] = _mm512_madd52hi_epu64(high[v], a, b);
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
        store(out + i + v * kLanes, reduce(low[v], high[v]));
}

template <class Second, class Reduce>
FHEINFER_AVX512_INLINE void sums(uint64_t* out, const uint64_t* const* xs, const Second& second, std::size_t terms,
                                 bool accumulate, std::size_t begin, std::size_t end, const Reduce& reduce) {
    std::size_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes)
        sum<4>(out, xs, second, terms, accumulate, i, reduce);
    for (; i < end; i += 2 * kLanes)
        sum<2>(out, xs, second, terms, accumulate, i, reduce);
}

template <class Second>
FHEINFER_AVX512 void sums(uint64_t* out, const uint64_t* const* xs, const Second& second, std::size_t terms,
                          bool accumulate, std::size_t begin, std::size_t end, const Modulus& m) {
    if (terms <= kFewTerms)
        sums(out, xs, second, terms, accumulate, begin, end, Reducer<52>(m));
    else
        sums(out, xs, second, terms, accumulate, begin, end, Reducer<60>(m));
}

}  // namespace

FHEINFER_AVX512 void sum_of_products_avx512(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ys,
                                            std::size_t terms, std::size_t repeat, bool accumulate, std::size_t begin,
                                            std::size_t end, const Modulus& m) {
    const int shift = std::countr_zero(repeat);
    switch (repeat) {
        case 1:
            return sums(out, xs, Repeated<1>{ys, shift}, terms, accumulate, begin, end, m);
        case 2:
            return sums(out, xs, Repeated<2>{ys, shift}, terms, accumulate, begin, end, m);
        case 4:
            return sums(out, xs, Repeated<4>{ys, shift}, terms, accumulate, begin, end, m);
        default:
            return sums(out, xs, Repeated<8>{ys, shift}, terms, accumulate, begin, end, m);
    }
}

FHEINFER_AVX512 void sum_of_mirrored_products_avx512(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ends,
                                                     std::size_t terms, std::size_t repeat, bool accumulate, std::size_t begin,
                                                     std::size_t end, const Modulus& m) {
    const int shift = std::countr_zero(repeat);
    switch (repeat) {
        case 1:
            return sums(out, xs, Mirrored<1>{ends, shift}, terms, accumulate, begin, end, m);
        case 2:
            return sums(out, xs, Mirrored<2>{ends, shift}, terms, accumulate, begin, end, m);
        case 4:
            return sums(out, xs, Mirrored<4>{ends, shift}, terms, accumulate, begin, end, m);
        default:
            return sums(out, xs, Mirrored<8>{ends, shift}, terms, accumulate, begin, end, m);
    }
}

FHEINFER_AVX512 void linear_combination_avx512(uint64_t* out, const uint64_t* const* xs, const uint64_t* cs,
                                               std::size_t terms, bool accumulate, std::size_t begin, std::size_t end,
                                               const Modulus& m) {
    sums(out, xs, Constants{cs}, terms, accumulate, begin, end, m);
}

}  // namespace fheinfer::ring

#endif
