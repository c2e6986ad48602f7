// Evaluation keys of the native backend as bytes (docs/reference/formats.md).
//
// [digits u32][limbs u32][special primes u32][seed, 32 bytes][zeros to 64 bytes] then per digit the b half,
// (limbs + special primes) x N residues. The uniform half is the keystream of the seed (ckks/random.h).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "ckks/key_generation.h"

namespace fheinfer {

std::string write_switching_key(const ckks::SwitchingKey& key, const ckks::Seed& seed);

// The keys in these bodies, each used where it stands: the bodies have to outlive them. Residues are checked and uniform
// halves made on all threads. Throws Error(kCorrupt) unless lengths are exact, counts possible and residues below their
// primes, Error(kUsage) for a body that does not stand at a multiple of 8 bytes.
std::vector<ckks::SwitchingKey> read_switching_keys(const ckks::Chain& chain, std::span<const std::span<const std::byte>> bodies);

// Of one that serves ciphertexts of so many limbs.
std::size_t switching_key_bytes(const ckks::Chain& chain, std::size_t limbs);

}  // namespace fheinfer
