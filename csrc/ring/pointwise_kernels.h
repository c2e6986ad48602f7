// The operations of pointwise.h, once for each instruction set. Only pointwise.cpp calls them.
#pragma once

#include "ring/pointwise.h"

namespace fheinfer::ring {

namespace portable {

void add(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m);
void subtract(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m);
void multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m);
void multiply(uint64_t* out, const uint64_t* x, const Factor& f, std::size_t n, const Modulus& m);
void subtract_multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, const Factor& f, std::size_t n, const Modulus& m);
void switch_modulus(uint64_t* out, const uint64_t* x, std::size_t n, const Modulus& from, const Modulus& m);
void lift(uint64_t* out, const int64_t* x, std::size_t n, const Modulus& m);
bool all_below(const uint64_t* x, std::size_t n, const Modulus& m);

}  // namespace portable

#if defined(__x86_64__)

namespace avx2 {

void add(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m);
void subtract(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m);
void multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m);
void multiply(uint64_t* out, const uint64_t* x, const Factor& f, std::size_t n, const Modulus& m);
void subtract_multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, const Factor& f, std::size_t n, const Modulus& m);
void switch_modulus(uint64_t* out, const uint64_t* x, std::size_t n, const Modulus& from, const Modulus& m);
void lift(uint64_t* out, const int64_t* x, std::size_t n, const Modulus& m);
bool all_below(const uint64_t* x, std::size_t n, const Modulus& m);

}  // namespace avx2

namespace avx512 {

void add(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m);
void subtract(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m);
void multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m);
void multiply(uint64_t* out, const uint64_t* x, const Factor& f, std::size_t n, const Modulus& m);
void subtract_multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, const Factor& f, std::size_t n, const Modulus& m);
void switch_modulus(uint64_t* out, const uint64_t* x, std::size_t n, const Modulus& from, const Modulus& m);
void lift(uint64_t* out, const int64_t* x, std::size_t n, const Modulus& m);
bool all_below(const uint64_t* x, std::size_t n, const Modulus& m);

}  // namespace avx512

#endif

}  // namespace fheinfer::ring
