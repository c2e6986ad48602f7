// Sums of products with one reduction at the end: key switching, base conversion, diagonals, linear combinations.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ring/modulus.h"

namespace fheinfer::ring {

// Sums of at most this many products: 52-bit halves added up in 64-bit words.
inline constexpr std::size_t kMaxTerms = 2048;

// out[i] = sum_t xs[t][i] * ys[t][i / repeat], plus out[i] when `accumulate`; canonical residues of m. n is a multiple of
// 16, repeat a power of two that divides n. `out` is none of the inputs. terms is at most kMaxTerms.
void sum_of_products(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ys, std::size_t terms, std::size_t repeat,
                     bool accumulate, std::size_t n, const Modulus& m);

// The same with the second factors read backwards from their ends: out[i] = sum_t xs[t][i] * ends[t][-1 - i / repeat].
void sum_of_mirrored_products(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ends, std::size_t terms,
                              std::size_t repeat, bool accumulate, std::size_t n, const Modulus& m);

// out[i] = sum_t xs[t][i] * cs[t], plus out[i] when `accumulate`. The xs are residues of any primes below 2^50, the cs of m.
void linear_combination(uint64_t* out, const uint64_t* const* xs, const uint64_t* cs, std::size_t terms, bool accumulate,
                        std::size_t n, const Modulus& m);

// linear_combination to `count` primes, with the factors cs[k] for outs[k]: base conversion. Goes over the xs once.
void linear_combinations(uint64_t* const* outs, std::size_t count, const uint64_t* const* xs,
                         const uint64_t* const* cs, std::size_t terms, bool accumulate, std::size_t n,
                         const Modulus* const* ms);

}  // namespace fheinfer::ring
