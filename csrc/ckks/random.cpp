#include "ckks/random.h"

#include <bit>
#include <cstring>

#include "base/cpu.h"

namespace fheinfer::ckks {

namespace {

constexpr std::size_t kLanes = 16;  // blocks at once: the compiler makes vectors of them, as wide as the target allows
using Lanes                  = uint32_t[kLanes];

[[gnu::always_inline]] inline void quarter_round(Lanes& a, Lanes& b, Lanes& c, Lanes& d) {
    for (std::size_t i = 0; i < kLanes; ++i) {
        a[i] += b[i];
        d[i] = std::rotl(d[i] ^ a[i], 16);
        c[i] += d[i];
        b[i] = std::rotl(b[i] ^ c[i], 12);
        a[i] += b[i];
        d[i] = std::rotl(d[i] ^ a[i], 8);
        c[i] += d[i];
        b[i] = std::rotl(b[i] ^ c[i], 7);
    }
}

// Blocks counter .. counter + kLanes - 1, word by word.
[[gnu::always_inline]] inline void blocks_body(Lanes (&out)[16], const Seed& key, uint32_t counter,
                                               const std::array<uint32_t, 3>& nonce) {
    uint32_t start[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    std::memcpy(start + 4, key.data(), key.size());
    start[12] = 0;
    for (std::size_t i = 0; i < 3; ++i)
        start[13 + i] = nonce[i];
    for (std::size_t w = 0; w < 16; ++w)
        for (std::size_t i = 0; i < kLanes; ++i)
            out[w][i] = w == 12 ? counter + static_cast<uint32_t>(i) : start[w];
    auto& x = out;
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
    for (std::size_t w = 0; w < 16; ++w)
        for (std::size_t i = 0; i < kLanes; ++i)
            out[w][i] += w == 12 ? counter + static_cast<uint32_t>(i) : start[w];
}

void blocks_portable(Lanes (&out)[16], const Seed& key, uint32_t counter, const std::array<uint32_t, 3>& nonce) {
    blocks_body(out, key, counter, nonce);
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) void blocks_avx2(Lanes (&out)[16], const Seed& key, uint32_t counter,
                                                 const std::array<uint32_t, 3>& nonce) {
    blocks_body(out, key, counter, nonce);
}
__attribute__((target("avx512f"))) void blocks_avx512(Lanes (&out)[16], const Seed& key, uint32_t counter,
                                                      const std::array<uint32_t, 3>& nonce) {
    blocks_body(out, key, counter, nonce);
}
#endif

auto blocks_form() {
#if defined(__x86_64__)
    if (cpu_form() == CpuForm::kAvx512)
        return blocks_avx512;
    if (cpu_form() == CpuForm::kAvx2)
        return blocks_avx2;
#endif
    return blocks_portable;
}

}  // namespace

std::array<uint32_t, 16> chacha20_block(const Seed& key, uint32_t counter, const std::array<uint32_t, 3>& nonce) {
    Lanes words[16];
    blocks_form()(words, key, counter, nonce);
    std::array<uint32_t, 16> out;
    for (std::size_t w = 0; w < 16; ++w)
        out[w] = words[w][0];
    return out;
}

void uniform(uint64_t* out, std::size_t n, const ring::Modulus& m, const Seed& seed, uint32_t digit, uint32_t row) {
    const uint64_t mask = (uint64_t{1} << std::bit_width(m.p)) - 1;
    Lanes words[16];
    std::size_t made = 0;
    const auto blocks = blocks_form();
    for (uint32_t counter = 0; made < n; counter += kLanes) {
        blocks(words, seed, counter, {digit, row, 0});
        for (std::size_t i = 0; i < kLanes; ++i)
            for (std::size_t w = 0; w < 16 && made < n; w += 2) {
                const uint64_t x = (uint64_t{words[w + 1][i]} << 32 | words[w][i]) & mask;
                out[made]        = x;
                made += x < m.p;
            }
    }
}

}  // namespace fheinfer::ckks
