// Slots to polynomials and back: the canonical embedding (ePrint 2016/421), on doubles.
#pragma once

#include <complex>
#include <cstdint>
#include <span>
#include <vector>

#include "ckks/chain.h"
#include "ring/poly.h"

namespace fheinfer::ckks {

using Complex = std::complex<double>;

// One stage of the special Fourier transform, for blocks of `length` (2 .. slots): within a block,
// (x_j, x_{j + length/2}) -> (x_j + w_j x_{j + length/2}, x_j - w_j x_{j + length/2}). All stages from 2 on, after a
// bit reversal, take u_j = c_j + i c_{j + slots} to slots; c are the coefficients of the polynomial in X^(n / 2 slots).
std::vector<Complex> stage_factors(std::size_t length);

// Coefficients of the polynomial whose slots are scale * values, rounded: 2 * values.size() of them, of X^(n / that).
// values.size() is a power of two. Throws Error(kUsage) where one passes 2^62 or is not finite.
std::vector<int64_t> encode(std::span<const Complex> values, double scale);
std::vector<int64_t> encode(std::span<const double> values, double scale);

// Residues in evaluation form of the subring of X^(n / coefficients.size()): rows of coefficients.size() words, each
// value that of n / coefficients.size() equal neighbours in the whole ring. Rows as in Chain::prime. On one thread.
ring::Poly transform(const Chain& chain, std::span<const int64_t> coefficients, std::size_t limbs, std::size_t specials,
                     std::size_t base = 0);

}  // namespace fheinfer::ckks
