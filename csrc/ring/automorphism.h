// X -> X^k on polynomials in evaluation form: a permutation of the residues, the same for every prime.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fheinfer::ring {

// out[i] = x[permutation[i]] is the automorphism by k (odd) of a ring of dimension n, in the order of ntt.h. n is 16 or more.
// Residues of an aligned block of 8 (or 4, or 2) come from one such block: their exponents differ by multiples of n / 4.
std::vector<uint32_t> automorphism(std::size_t n, uint64_t k);
// permutation: from automorphism(). out is not x.
void permute(uint64_t* out, const uint64_t* x, const std::vector<uint32_t>& permutation);

// 5^k modulo 2n: the automorphism that brings slot i + k to slot i; negative k too.
uint64_t rotation_exponent(std::size_t n, long k);

}  // namespace fheinfer::ring
