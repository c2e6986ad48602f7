#include "ckks/random.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/cpu.h"
#include "ckks/random_kernels.h"

namespace fheinfer::ckks {

namespace {

using Lanes = uint32_t[kBlocks];  // one word of every block: the compiler makes vectors of them

void quarter_round(Lanes& a, Lanes& b, Lanes& c, Lanes& d) {
    for (std::size_t i = 0; i < kBlocks; ++i) {
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

void keystream_portable(uint64_t* out, const uint32_t* start) {
    Lanes x[16];
    for (std::size_t w = 0; w < 16; ++w)
        for (std::size_t i = 0; i < kBlocks; ++i)
            x[w][i] = start[w] + (w == 12 ? static_cast<uint32_t>(i) : 0);
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
        for (std::size_t i = 0; i < kBlocks; ++i)
            x[w][i] += start[w] + (w == 12 ? static_cast<uint32_t>(i) : 0);
    for (std::size_t i = 0; i < kBlocks; ++i)
        for (std::size_t w = 0; w < 16; w += 2)
            *out++ = uint64_t{x[w + 1][i]} << 32 | x[w][i];
}

std::size_t accept_portable(uint64_t* out, const uint64_t* words, uint64_t mask, uint64_t p) {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < kWords; ++i) {
        out[kept] = words[i] & mask;
        kept += out[kept] < p;
    }
    return kept;
}

struct Kernels {
    Keystream* keystream;
    Accept* accept;
};

Kernels kernels() {
#if defined(__x86_64__)
    if (instruction_set() == InstructionSet::kAvx512)
        return {keystream_avx512, accept_avx512};
    if (instruction_set() == InstructionSet::kAvx2)
        return {keystream_avx2, accept_avx2};
#endif
    return {keystream_portable, accept_portable};
}

// The state that the first block begins with.
std::array<uint32_t, 16> state(const Seed& key, uint32_t counter, const std::array<uint32_t, 3>& nonce) {
    std::array<uint32_t, 16> out = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    std::memcpy(out.data() + 4, key.data(), key.size());
    out[12] = counter;
    std::copy(nonce.begin(), nonce.end(), out.begin() + 13);
    return out;
}

}  // namespace

std::array<uint32_t, 16> chacha20_block(const Seed& key, uint32_t counter, const std::array<uint32_t, 3>& nonce) {
    alignas(64) uint64_t words[kWords];
    kernels().keystream(words, state(key, counter, nonce).data());
    std::array<uint32_t, 16> out;
    for (std::size_t w = 0; w < 16; ++w)
        out[w] = static_cast<uint32_t>(words[w / 2] >> 32 * (w % 2));
    return out;
}

void uniform(uint64_t* out, std::size_t n, const ring::Modulus& m, const Seed& seed, uint32_t digit, uint32_t row) {
    const uint64_t mask          = (uint64_t{1} << std::bit_width(m.p)) - 1;
    const auto [keystream, accept] = kernels();
    auto start                   = state(seed, 0, {digit, row, 0});
    alignas(64) uint64_t words[kWords], last[kWords + kSpill];
    for (std::size_t made = 0; made < n; start[12] += kBlocks) {
        keystream(words, start.data());
        if (n - made >= kWords + kSpill) {
            made += accept(out + made, words, mask, m.p);
            continue;
        }
        const std::size_t kept = std::min(accept(last, words, mask, m.p), n - made);
        std::copy_n(last, kept, out + made);
        made += kept;
    }
}

}  // namespace fheinfer::ckks
