// Eight blocks of ChaCha20 at once, one in each 32-bit lane.
#include "ckks/random_kernels.h"

#if defined(__x86_64__)

#include "ring/avx2.h"

namespace fheinfer::ckks {

namespace {

using V = __m256i;

template <int kBits>
FHEINFER_AVX2_INLINE V rotate(V x) {
    return _mm256_or_si256(_mm256_slli_epi32(x, kBits), _mm256_srli_epi32(x, 32 - kBits));
}

FHEINFER_AVX2_INLINE void quarter_round(V& a, V& b, V& c, V& d, V by16, V by8) {
    a = _mm256_add_epi32(a, b);
    d = _mm256_shuffle_epi8(_mm256_xor_si256(d, a), by16);
    c = _mm256_add_epi32(c, d);
    b = rotate<12>(_mm256_xor_si256(b, c));
    a = _mm256_add_epi32(a, b);
    d = _mm256_shuffle_epi8(_mm256_xor_si256(d, a), by8);
    c = _mm256_add_epi32(c, d);
    b = rotate<7>(_mm256_xor_si256(b, c));
}

// Words w .. w + 3 of blocks e and 4 + e, in the two halves of out[e].
FHEINFER_AVX2_INLINE void transpose4(V* out, V w0, V w1, V w2, V w3) {
    const V a = _mm256_unpacklo_epi32(w0, w1), b = _mm256_unpackhi_epi32(w0, w1);
    const V c = _mm256_unpacklo_epi32(w2, w3), d = _mm256_unpackhi_epi32(w2, w3);
    out[0] = _mm256_unpacklo_epi64(a, c);
    out[1] = _mm256_unpackhi_epi64(a, c);
    out[2] = _mm256_unpacklo_epi64(b, d);
    out[3] = _mm256_unpackhi_epi64(b, d);
}

FHEINFER_AVX2_INLINE void eight_blocks(uint64_t* out, const uint32_t* start, int first) {
    const V by16  = _mm256_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15,
                                     12, 13);
    const V by8   = _mm256_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14, 3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12,
                                     13, 14);
    const V lanes = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
    V x[16];
    for (int w = 0; w < 16; ++w)
        x[w] = _mm256_set1_epi32(static_cast<int>(start[w]));
    x[12] = _mm256_add_epi32(x[12], lanes);
    for (int round = 0; round < 10; ++round) {
        quarter_round(x[0], x[4], x[8], x[12], by16, by8);
        quarter_round(x[1], x[5], x[9], x[13], by16, by8);
        quarter_round(x[2], x[6], x[10], x[14], by16, by8);
        quarter_round(x[3], x[7], x[11], x[15], by16, by8);
        quarter_round(x[0], x[5], x[10], x[15], by16, by8);
        quarter_round(x[1], x[6], x[11], x[12], by16, by8);
        quarter_round(x[2], x[7], x[8], x[13], by16, by8);
        quarter_round(x[3], x[4], x[9], x[14], by16, by8);
    }
    for (int w = 0; w < 16; ++w)
        x[w] = _mm256_add_epi32(x[w], _mm256_set1_epi32(static_cast<int>(start[w])));
    x[12] = _mm256_add_epi32(x[12], lanes);
    V part[4][4];  // by words and then blocks, of four each
    for (int w = 0; w < 4; ++w)
        transpose4(part[w], x[4 * w], x[4 * w + 1], x[4 * w + 2], x[4 * w + 3]);
    for (int e = 0; e < 4; ++e)
        for (int w = 0; w < 4; w += 2) {
            ring::avx2::store(out + 8 * e + 2 * w, _mm256_permute2x128_si256(part[w][e], part[w + 1][e], 0x20));
            ring::avx2::store(out + 8 * (4 + e) + 2 * w, _mm256_permute2x128_si256(part[w][e], part[w + 1][e], 0x31));
        }
}

// By the mask of those of four words that are kept: the 32-bit lanes they come from, and how many they are.
constexpr int32_t kOrder[16][8] = {
    {0, 1, 2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7}, {2, 3, 0, 1, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7},
    {4, 5, 0, 1, 2, 3, 6, 7}, {0, 1, 4, 5, 2, 3, 6, 7}, {2, 3, 4, 5, 0, 1, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7},
    {6, 7, 0, 1, 2, 3, 4, 5}, {0, 1, 6, 7, 2, 3, 4, 5}, {2, 3, 6, 7, 0, 1, 4, 5}, {0, 1, 2, 3, 6, 7, 4, 5},
    {4, 5, 6, 7, 0, 1, 2, 3}, {0, 1, 4, 5, 6, 7, 2, 3}, {2, 3, 4, 5, 6, 7, 0, 1}, {0, 1, 2, 3, 4, 5, 6, 7},
};
constexpr uint8_t kCount[16] = {0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4};

}  // namespace

FHEINFER_AVX2 void keystream_avx2(uint64_t* out, const uint32_t* start) {
    eight_blocks(out, start, 0);
    eight_blocks(out + kWords / 2, start, 8);
}

FHEINFER_AVX2 std::size_t accept_avx2(uint64_t* out, const uint64_t* words, uint64_t mask, uint64_t p) {
    using namespace ring::avx2;
    uint64_t* next = out;
    for (std::size_t i = 0; i < kWords; i += kLanes) {
        const Integers x = _mm256_and_si256(load(words + i), all(mask));
        const int fit    = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpgt_epi64(all(p), x)));
        const auto order = _mm256_loadu_si256(reinterpret_cast<const Integers*>(kOrder[fit]));
        store(next, _mm256_permutevar8x32_epi32(x, order));
        next += kCount[fit];
    }
    return static_cast<std::size_t>(next - out);
}

}  // namespace fheinfer::ckks

#endif
