// Ciphertexts as bytes; docs/reference/formats.md.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "ckks/ciphertext.h"
#include "ckks/random.h"

namespace fheinfer::ckks {

// [limbs u32][polynomials u32][dropped u32][seed, 32 bytes, with one polynomial] then their rows: residues packed at the
// width of their prime less `dropped` bits, little-endian.
//
// One polynomial: c1 is the keystream of the seed. dropped > 0, of a single limb: coefficients rounded to a multiple of
// 2^dropped, which costs noise of 2^dropped sqrt(n / 18) in a coefficient and makes a result smaller.
std::string write(const Chain& chain, const Ciphertext& x, int dropped = 0, const std::optional<Seed>& seed = std::nullopt);
// The scale is left to the caller. Throws Error(kCorrupt) unless the counts are possible, the length is exact and every
// residue is below its prime.
Ciphertext read(const Chain& chain, std::span<const std::byte> body);

}  // namespace fheinfer::ckks
