// The steps of `uniform`, as each instruction set has them. Included only by the files that hold them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fheinfer::ckks {

// Blocks of keystream at once, and the 64-bit words they hold.
inline constexpr std::size_t kBlocks = 16, kWords = 8 * kBlocks;
// Words that `accept` may write after those it accepts.
inline constexpr std::size_t kSpill = 8;

// out: kWords words, the blocks of counters start[12] .. start[12] + kBlocks - 1 one after another. start: the state
// that a block begins with (RFC 8439, section 2.3).
using Keystream = void(uint64_t* out, const uint32_t* start);
// Cuts kWords words by `mask` and keeps those below p (below 2^62), in order. Returns how many.
using Accept = std::size_t(uint64_t* out, const uint64_t* words, uint64_t mask, uint64_t p);

#if defined(__x86_64__)
Keystream keystream_avx2, keystream_avx512;
Accept accept_avx2, accept_avx512;
#endif

}  // namespace fheinfer::ckks
