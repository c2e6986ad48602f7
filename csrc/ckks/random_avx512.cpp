// Sixteen blocks of ChaCha20 at once, one in each 32-bit lane.
#include "ckks/random_kernels.h"

#if defined(__x86_64__)

#include "ring/avx512.h"

namespace fheinfer::ckks {

namespace {

using V = __m512i;

FHEINFER_AVX512_INLINE void quarter_round(V& a, V& b, V& c, V& d) {
    a = _mm512_add_epi32(a, b);
    d = _mm512_rol_epi32(_mm512_xor_si512(d, a), 16);
    c = _mm512_add_epi32(c, d);
    b = _mm512_rol_epi32(_mm512_xor_si512(b, c), 12);
    a = _mm512_add_epi32(a, b);
    d = _mm512_rol_epi32(_mm512_xor_si512(d, a), 8);
    c = _mm512_add_epi32(c, d);
    b = _mm512_rol_epi32(_mm512_xor_si512(b, c), 7);
}

// Words w .. w + 3 of blocks e, 4 + e, 8 + e and 12 + e, in the four quarters of out[e].
FHEINFER_AVX512_INLINE void transpose4(V* out, V w0, V w1, V w2, V w3) {
    const V a = _mm512_unpacklo_epi32(w0, w1), b = _mm512_unpackhi_epi32(w0, w1);
    const V c = _mm512_unpacklo_epi32(w2, w3), d = _mm512_unpackhi_epi32(w2, w3);
    out[0] = _mm512_unpacklo_epi64(a, c);
    out[1] = _mm512_unpackhi_epi64(a, c);
    out[2] = _mm512_unpacklo_epi64(b, d);
    out[3] = _mm512_unpackhi_epi64(b, d);
}

}  // namespace

FHEINFER_AVX512 void keystream_avx512(uint64_t* out, const uint32_t* start) {
    const V lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    V x[16];
    for (int w = 0; w < 16; ++w)
        x[w] = _mm512_set1_epi32(static_cast<int>(start[w]));
    x[12] = _mm512_add_epi32(x[12], lanes);
    for (int round = 0; round < 10; ++round) {
        quarter_round(x[0], x[4], x[8], x[12]);
        quarter_round(x[1], x[5], x[9], x[13]);
        quarter_round(x[2], x[6], x[10], x[14]);
        quarter_round(x[3], x[7], x[11], x[15]);
        quarter_round(x[0], x[5], x[10], x[15]);
        quarter_round(x[1], x[6], x[11], x[12]);
        quarter_round(x[2], x[7], x[8], x[13]);
        quarter_round(x[3], x[4], x[9], x[14]);
    }
    for (int w = 0; w < 16; ++w)
        x[w] = _mm512_add_epi32(x[w], _mm512_set1_epi32(static_cast<int>(start[w])));
    x[12] = _mm512_add_epi32(x[12], lanes);
    V part[4][4];  // by words and then blocks, of four each
    for (int w = 0; w < 4; ++w)
        transpose4(part[w], x[4 * w], x[4 * w + 1], x[4 * w + 2], x[4 * w + 3]);
    for (int e = 0; e < 4; ++e) {
        const V low01 = _mm512_shuffle_i64x2(part[0][e], part[1][e], 0x44), high01 = _mm512_shuffle_i64x2(part[0][e], part[1][e], 0xee);
        const V low23 = _mm512_shuffle_i64x2(part[2][e], part[3][e], 0x44), high23 = _mm512_shuffle_i64x2(part[2][e], part[3][e], 0xee);
        ring::avx512::store(out + 8 * e, _mm512_shuffle_i64x2(low01, low23, 0x88));
        ring::avx512::store(out + 8 * (4 + e), _mm512_shuffle_i64x2(low01, low23, 0xdd));
        ring::avx512::store(out + 8 * (8 + e), _mm512_shuffle_i64x2(high01, high23, 0x88));
        ring::avx512::store(out + 8 * (12 + e), _mm512_shuffle_i64x2(high01, high23, 0xdd));
    }
}

FHEINFER_AVX512 std::size_t accept_avx512(uint64_t* out, const uint64_t* words, uint64_t mask, uint64_t p) {
    using namespace ring::avx512;
    uint64_t* next = out;
    for (std::size_t i = 0; i < kWords; i += kLanes) {
        const Lanes x      = _mm512_and_si512(load(words + i), all(mask));
        const __mmask8 fit = _mm512_cmplt_epu64_mask(x, all(p));
        // Compressed in a register: the instruction that compresses into memory is many times slower on some processors.
        store(next, _mm512_maskz_compress_epi64(fit, x));
        next += __builtin_popcount(fit);
    }
    return static_cast<std::size_t>(next - out);
}

}  // namespace fheinfer::ckks

#endif
