// The sums of accumulate.h for the residues begin .. end - 1, multiples of 16, once for each instruction set. Only
// accumulate.cpp calls them.
#pragma once

#include "ring/accumulate.h"

#if defined(__x86_64__)

namespace fheinfer::ring {

void sum_of_products_avx2(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ys, std::size_t terms,
                          std::size_t repeat, bool accumulate, std::size_t begin, std::size_t end, const Modulus& m);
void sum_of_mirrored_products_avx2(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ends, std::size_t terms,
                                   std::size_t repeat, bool accumulate, std::size_t begin, std::size_t end, const Modulus& m);
void linear_combination_avx2(uint64_t* out, const uint64_t* const* xs, const uint64_t* cs, std::size_t terms,
                             bool accumulate, std::size_t begin, std::size_t end, const Modulus& m);
void sum_of_products_avx512(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ys, std::size_t terms,
                            std::size_t repeat, bool accumulate, std::size_t begin, std::size_t end, const Modulus& m);
void sum_of_mirrored_products_avx512(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ends, std::size_t terms,
                                   std::size_t repeat, bool accumulate, std::size_t begin, std::size_t end, const Modulus& m);
void linear_combination_avx512(uint64_t* out, const uint64_t* const* xs, const uint64_t* cs, std::size_t terms,
                               bool accumulate, std::size_t begin, std::size_t end, const Modulus& m);

}  // namespace fheinfer::ring

#endif
