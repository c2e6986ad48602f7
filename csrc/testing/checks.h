// Arguments of the testing module, checked: a mistake in a test is an error and not the end of the process.
#pragma once

#include <pybind11/pybind11.h>

#include <bit>
#include <string>

#include "base/error.h"
#include "ring/modulus.h"

namespace fheinfer::testing {

inline void require(bool fits, const char* what) {
    if (!fits)
        throw Error(ErrorKind::kUsage, what);
}

// Throws Error(kUsage) unless p is odd and between 2 and 2^50: what division and 52-bit multipliers need.
inline ring::Modulus modulus(uint64_t p) {
    if (p <= 2 || p >> ring::kMaxPrimeBits || p % 2 == 0)
        throw Error(ErrorKind::kUsage, "no arithmetic modulo " + std::to_string(p) + "; a modulus is odd, above 2 and below 2^50");
    return ring::Modulus(p);
}

inline ring::Factor factor(uint64_t value, const ring::Modulus& m) {
    require(value < m.p, "a factor is below its modulus");
    return ring::Factor(value, m);
}

void bind_ring(pybind11::module_& m);
void bind_ckks(pybind11::module_& m);

}  // namespace fheinfer::testing
