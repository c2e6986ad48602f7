// The rounded quotient of exact basis conversion.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fheinfer::ring {

// out[i] = round(sum_t ys[t][i] * fractions[t] / 2^(52 + bits)): how many times the product of the primes is to be taken
// off. fractions[t] = floor(2^(52 + bits) / prime t) below 2^52; the ys are below their primes. n is a multiple of 16.
void rounded_quotient(uint64_t* out, const uint64_t* const* ys, const uint64_t* fractions, std::size_t terms, int bits, std::size_t n);

}  // namespace fheinfer::ring
