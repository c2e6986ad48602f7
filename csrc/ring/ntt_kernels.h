// The transforms of ntt.h, once for each instruction set. Only ntt.cpp calls them.
#pragma once

#include "ring/ntt.h"

#if defined(__x86_64__)

namespace fheinfer::ring {

// The least n that every one of these takes.
inline constexpr std::size_t kLeastVector = 128;

void forward_avx2(uint64_t* x, const Ntt& ntt);
void inverse_avx2(uint64_t* x, const Ntt& ntt);
void forward_avx512(uint64_t* x, const Ntt& ntt);
void inverse_avx512(uint64_t* x, const Ntt& ntt);

}  // namespace fheinfer::ring

#endif
