// Element-wise arithmetic on limbs of n residues, n a multiple of 16. Residues are canonical in and out; `out` may be one
// of the inputs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ring/modulus.h"

namespace fheinfer::ring {

void add(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m);
void subtract(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m);
void multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m);
// out = x * f. The residues of x may be of any modulus below 2^50.
void multiply(uint64_t* out, const uint64_t* x, const Factor& f, std::size_t n, const Modulus& m);
// out = (x - y) * f: rescaling and ModDown.
void subtract_multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, const Factor& f, std::size_t n, const Modulus& m);
// out = x taken in (-from/2, from/2], modulo m. Both primes are below 2^50; n as above.
void switch_modulus(uint64_t* out, const uint64_t* x, std::size_t n, const Modulus& from, const Modulus& m);
// out = x modulo m, for signed x of less than 2^62.
void lift(uint64_t* out, const int64_t* x, std::size_t n, const Modulus& m);
// Whether all of any n words are below the prime.
bool all_below(const uint64_t* x, std::size_t n, const Modulus& m);

}  // namespace fheinfer::ring
