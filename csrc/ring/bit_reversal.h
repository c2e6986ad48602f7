// The order of a transform's positions (ntt.h).
#pragma once

#include <cstddef>

namespace fheinfer::ring {

// The lowest `bits` bits of i, last first.
inline std::size_t reverse_bits(std::size_t i, int bits) {
    std::size_t r = 0;
    for (int b = 0; b < bits; ++b, i >>= 1)
        r = r << 1 | (i & 1);
    return r;
}

}  // namespace fheinfer::ring
