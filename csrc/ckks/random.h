// The ChaCha20 keystream (RFC 8439) as uniform residues: the public half of a key is its seed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "ring/modulus.h"

namespace fheinfer::ckks {

using Seed = std::array<uint8_t, 32>;

// 64 bytes of keystream. Known answers: RFC 8439, section 2.3.2.
std::array<uint32_t, 16> chacha20_block(const Seed& key, uint32_t counter, const std::array<uint32_t, 3>& nonce);

// n residues, exactly uniform below the prime: 64-bit words cut to its size, those not below it passed over. A
// different `digit` or `row` is an independent stream.
void uniform(uint64_t* out, std::size_t n, const ring::Modulus& m, const Seed& seed, uint32_t digit, uint32_t row);

}  // namespace fheinfer::ckks
