#include "ring/convert.h"

#include "ring/modulus.h"

namespace fheinfer::ring {

void rounded_quotient(uint64_t* out, const uint64_t* const* ys, const uint64_t* fractions, std::size_t terms, int bits, std::size_t n) {
    const uint64_t half = uint64_t{1} << (bits - 1);
    for (std::size_t i = 0; i < n; ++i) {
        uint64_t sum = half;
        for (std::size_t t = 0; t < terms; ++t)
            sum += static_cast<uint64_t>((uint128{ys[t][i]} * fractions[t]) >> 52);
        out[i] = sum >> bits;
    }
}

}  // namespace fheinfer::ring
