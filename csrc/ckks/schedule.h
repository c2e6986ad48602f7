// In which order the engine for linear maps goes through inputs and giant steps, so that what it holds fits a bound.
#pragma once

#include <cstddef>

#include "base/linear_map.h"

namespace fheinfer::ckks {

// Giant steps whose sums are formed at once; measured in docs/explanation/performance.md.
inline constexpr std::size_t kChunk = 8;

// What a map meets: the ring, the limbs of its inputs, special primes and digits of their key switching.
struct MapSizes {
    std::size_t n = 0, limbs = 0, specials = 0, digits = 1;
};

// Bytes that an evaluation of a map may hold beside its inputs and outputs, where there is an order that needs no more: of the
// whole process, 1.5 GB unless it is set.
std::size_t working_limit();
void set_working_limit(std::size_t bytes);

// Of a map with single hoisting. Sums of giant steps are counted in the order of their Horner sums: output by output, the last
// giant step first.
//
// Where the baby steps of all inputs fit, they are made once and the sums are formed a chunk at a time. Else sums stay in
// memory and inputs pass by, a few at a time; where not all sums fit either, the inputs pass by several times and their baby
// steps are made again each time. Sums are exact, so every order has the same bits.
struct Schedule {
    int inputs = 1;         // whose baby steps are in memory at once
    std::size_t sums = 1;   // in memory at once: a part of one output's, or those of whole outputs
    std::size_t terms = 1;  // of each sum, whose coefficients are in memory at once
    std::size_t passes = 1; // how often the baby steps are made
    std::size_t bytes = 0;  // held at most
};

// The schedule with the fewest passes within `bound`, or the smallest there is. `kept`: diagonals are encoded already.
Schedule schedule(const LinearMap& map, const MapSizes& sizes, bool kept, std::size_t bound);

// Bytes that an evaluation of a map with streamed diagonals holds at most beside its inputs and outputs, of either hoisting,
// under `bound`. To within a few limbs for each thread.
std::size_t working_bytes(const LinearMap& map, const MapSizes& sizes, std::size_t bound);

}  // namespace fheinfer::ckks
