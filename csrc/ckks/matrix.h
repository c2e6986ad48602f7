// Square complex matrices by their diagonals as linear maps: the factors of CoeffToSlot and SlotToCoeff.
#pragma once

#include <map>
#include <vector>

#include "base/key_policy.h"
#include "base/linear_map.h"
#include "ckks/encoder.h"

namespace fheinfer::ckks {

// out[i] = sum_k diagonals[k][i] x[i + k], indices modulo the number of slots.
using Diagonals = std::map<int, std::vector<Complex>>;

// Diagonal offsets (start + b) * stride + g * baby * stride for b < baby, g < giant. Giant steps are a Horner sum with one
// rotation by baby * stride: with double hoisting each costs a ModDown and a ModUp either way, and this needs one key.
//
// The first `hoisted` baby steps have a key each and share a ModUp. The next so many are the same steps of the input rotated
// by hoisted * stride, and so on: a key switch for each such part instead of keys.
struct Steps {
    int start = 0, hoisted = 1, baby = 1, giant = 1, stride = 1;

    // For offsets that are multiples of `stride`, between `lowest` and `highest` of them.
    static Steps fit(int lowest, int highest, int stride, KeyPolicy keys);
    std::vector<int> rotations() const;
};

// The matrix in these steps, with double hoisting.
LinearMap matrix_map(Diagonals diagonals, const Steps& steps);

}  // namespace fheinfer::ckks
