// Chebyshev series on ciphertexts by baby steps and giant steps, at the least depth there is.
#pragma once

#include <span>

#include "ckks/ciphertext.h"

namespace fheinfer::ckks {

// ceil(log2(degree + 1)): levels a series of this degree consumes.
int series_depth(int degree);

// sum_k coefficients[k] T_k(x) for x in [-1, 1], series_depth levels lower and exactly at `scale`. Products and the
// linear combinations under them are given the scales that make it so (as in Lattigo's evaluator), so that the primes
// need not be near the scale.
Ciphertext chebyshev(const Chain& chain, const SwitchingKey& relinearisation, const Ciphertext& x,
                     std::span<const double> coefficients, double scale);

// 2 x y - (1 where z is null, else z).
Ciphertext double_product(const Chain& chain, const SwitchingKey& relinearisation, const Ciphertext& x, const Ciphertext& y,
                          const Ciphertext* z);

}  // namespace fheinfer::ckks
