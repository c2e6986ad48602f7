// Sums of products in AVX2 and FMA: two fused multiply-adds split a product at bit 52, exactly, and the bits of the two
// doubles are added up as integers.
#if defined(__x86_64__)

#include <bit>

#include "ring/accumulate_kernels.h"
#include "ring/avx2.h"

namespace fheinfer::ring {

namespace {

using namespace avx2;

// Doubles from 1.5 * 2^104 and from 1.5 * 2^52 up to the next power of two: their last bits count multiples of 2^52, and
// of 1.
constexpr double kHigh = 0x1.8p104, kLow = 0x1.8p52;

// Reduces the sum of `terms` products and of a residue. A low half is of at most 2^51 either side of 0, and rounding keeps
// the high ones below 2^48.
struct Reducer {
    Prime m;
    Lanes r52, r32;
    Integers high_start, low_start;  // less the bits of kHigh and kLow that come with every term

    FHEINFER_AVX2_INLINE explicit Reducer(const Modulus& modulus, std::size_t terms)
        : m(modulus), r52(m.centred(modulus.r52)), r32(m.centred(modulus.reduce(uint64_t{1} << 32))) {
        const uint64_t multiple = ((uint64_t{1} << 62) / modulus.p + 1) * modulus.p;  // so that low sums are not below 0
        high_start = all(uint64_t{0} - terms * std::bit_cast<uint64_t>(kHigh));
        low_start  = all(multiple - terms * std::bit_cast<uint64_t>(kLow));
    }

    FHEINFER_AVX2_INLINE Integers operator()(Integers low, Integers high) const {
        return m.canonical(m.reduce(_mm256_add_pd(m.multiply(reduce(high), r52), reduce(low))));
    }

private:
    // Any 64 bits, to at most 1.3p either side of 0.
    FHEINFER_AVX2_INLINE Lanes reduce(Integers x) const {
        const Lanes high = to_double(_mm256_srli_epi64(x, 32));
        const Lanes low  = to_double(_mm256_and_si256(x, all(uint64_t{0xffffffff})));
        return _mm256_add_pd(m.multiply(high, r32), m.reduce(low));
    }
};

// The second operands of the products of residues i .. i + 3.
struct Constants {
    const uint64_t* cs;

    FHEINFER_AVX2_INLINE Lanes operator()(std::size_t t, std::size_t) const {
        return all(static_cast<double>(cs[t]));
    }
};

// kRepeat: of each residue in 4 lanes.
template <int kRepeat>
struct Repeated {
    const uint64_t* const* ys;
    int shift;  // log2 of repeat

    FHEINFER_AVX2_INLINE Lanes operator()(std::size_t t, std::size_t i) const {
        const uint64_t* y = ys[t] + (i >> shift);
        if constexpr (kRepeat == 1)
            return to_double(load(y));
        else if constexpr (kRepeat == 2)
            return to_double(_mm256_permute4x64_epi64(
                _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(y))), 0b01010000));
        else
            return to_double(all(*y));
    }
};

// The same, backwards from the ends of the ys.
template <int kRepeat>
struct Mirrored {
    const uint64_t* const* ends;
    int shift;

    FHEINFER_AVX2_INLINE Lanes operator()(std::size_t t, std::size_t i) const {
        const uint64_t* end = ends[t] - (i >> shift);
        if constexpr (kRepeat == 1)
            return to_double(_mm256_permute4x64_epi64(load(end - 4), 0b00011011));
        else if constexpr (kRepeat == 2)
            return to_double(_mm256_permute4x64_epi64(
                _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(end - 2))), 0b00000101));
        else
            return to_double(all(end[-1]));
    }
};

// Four vectors at once, so that what is done once per term is worth it.
template <class Second>
FHEINFER_AVX2 void sums(uint64_t* out, const uint64_t* const* xs, const Second& second, std::size_t terms, bool accumulate,
                        std::size_t begin, std::size_t end, const Modulus& modulus) {
    constexpr int kVectors = 4;
    const Reducer reduce(modulus, terms);
    const Lanes high_bits = all(kHigh), low_bits = all(kLow);
    for (std::size_t i = begin; i < end; i += kVectors * kLanes) {
        Integers low[kVectors], high[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            low[v]  = accumulate ? _mm256_add_epi64(reduce.low_start, load(out + i + v * kLanes)) : reduce.low_start;
            high[v] = reduce.high_start;
        }
        for (std::size_t t = 0; t < terms; ++t) {
            const uint64_t* x = xs[t] + i;
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) {
                const Lanes a = to_double(load(x + v * kLanes)), b = second(t, i + v * kLanes);
                const Lanes h = _mm256_fmadd_pd(a, b, high_bits);
                const Lanes l = _mm256_add_pd(_mm256_fmadd_pd(a, b, _mm256_sub_pd(high_bits, h)), low_bits);
                high[v]       = _mm256_add_epi64(high[v], _mm256_castpd_si256(h));
                low[v]        = _mm256_add_epi64(low[v], _mm256_castpd_si256(l));
            }
        }
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v)
            store(out + i + v * kLanes, reduce(low[v], high[v]));
    }
}

}  // namespace

FHEINFER_AVX2 void sum_of_products_avx2(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ys,
                                        std::size_t terms, std::size_t repeat, bool accumulate, std::size_t begin,
                                        std::size_t end, const Modulus& m) {
    const int shift = std::countr_zero(repeat);
    switch (repeat) {
        case 1:
            return sums(out, xs, Repeated<1>{ys, shift}, terms, accumulate, begin, end, m);
        case 2:
            return sums(out, xs, Repeated<2>{ys, shift}, terms, accumulate, begin, end, m);
        default:
            return sums(out, xs, Repeated<4>{ys, shift}, terms, accumulate, begin, end, m);
    }
}

FHEINFER_AVX2 void sum_of_mirrored_products_avx2(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ends,
                                                 std::size_t terms, std::size_t repeat, bool accumulate, std::size_t begin,
                                                 std::size_t end, const Modulus& m) {
    const int shift = std::countr_zero(repeat);
    switch (repeat) {
        case 1:
            return sums(out, xs, Mirrored<1>{ends, shift}, terms, accumulate, begin, end, m);
        case 2:
            return sums(out, xs, Mirrored<2>{ends, shift}, terms, accumulate, begin, end, m);
        default:
            return sums(out, xs, Mirrored<4>{ends, shift}, terms, accumulate, begin, end, m);
    }
}

FHEINFER_AVX2 void linear_combination_avx2(uint64_t* out, const uint64_t* const* xs, const uint64_t* cs, std::size_t terms,
                                           bool accumulate, std::size_t begin, std::size_t end, const Modulus& m) {
    sums(out, xs, Constants{cs}, terms, accumulate, begin, end, m);
}

}  // namespace fheinfer::ring

#endif
