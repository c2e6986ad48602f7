// Bodies: residues as little-endian 64-bit words behind a few counts, checked on the way in. The files around them
// (magic, identity, checksum) are written by fheinfer/artifact.py; docs/reference/formats.md describes both.
#pragma once

#include <span>
#include <string>

#include "base/secret.h"
#include "ckks/ciphertext_format.h"
#include "crypto/context.h"

namespace fheinfer {

using Bytes = std::span<const std::byte>;

// The rows of the first `limbs` primes that OpenFHE knows as one of its polynomials.
Poly to_openfhe(const Context& context, const ckks::Poly& x, std::size_t limbs);

// ckks/ciphertext_format.h. Ciphertexts carry their scale implicitly: always that of their level (every evaluator output is
// rescaled).
std::string write_ciphertext(const Context& context, const OpenFheCt& ciphertext, int dropped = 0);
OpenFheCt read_ciphertext(const Context& context, const std::string& key_tag, Bytes body);

// [digits u32][limbs u32][special primes u32] then per digit the b and the a half, (limbs + special primes) x N residues
// each. Only the first `limbs` limbs of Q and the digits they touch are kept: OpenFHE's key switching reads no others.
std::string write_evaluation_key(const Context& context, const OpenFheKey& key, int limbs);
OpenFheKey read_evaluation_key(const Context& context, const std::string& key_tag, Bytes body);
std::size_t evaluation_key_bytes(const Context& context, int limbs);

// [polynomials u32][limbs u32], both 2, then the b and the a half modulo q_0 and p_0: of the two keys of sparse-secret
// encapsulation, to_sparse lives modulo q_0 * p_0.
std::string write_encapsulation_key(const OpenFheKey& key);
OpenFheKey read_encapsulation_key(const Context& context, const std::string& key_tag, Bytes body);

// One signed byte (-1, 0, 1) per coefficient.
SecretVector<char> write_secret(const Context& context, const lbcrypto::PrivateKey<Poly>& key);
lbcrypto::PrivateKey<Poly> read_secret(const Context& context, const std::string& key_tag, Bytes body);

// n values of the error distribution.
SecretVector<int64_t> draw(const lbcrypto::DiscreteGaussianGeneratorImpl<lbcrypto::NativeVector>& gaussian, std::size_t n);
// n values in {-1, 0, 1}, uniform.
SecretVector<int64_t> draw_ternary(std::size_t n);
// OpenFHE's residues, overwritten where they are.
void wipe(const LimbPoly& limb);
void wipe(const Poly& poly);
// Its slots and its polynomial.
void wipe(const lbcrypto::Plaintext& plain);

}  // namespace fheinfer
