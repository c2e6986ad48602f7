// Splits rotations into baby steps and giant steps.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fheinfer {

// distance = first + second + row * row_stride + block * block_stride (mod `modulus`): see LinearMap.
struct StepSplit {
    std::vector<int> first{0}, second{0};
    int row_steps = 1, row_stride = 0, row_start = 0;
    int block_steps = 1, block_stride = 0, block_start = 0;
    long cost = 0;

    int shift() const {
        return row_start * row_stride + block_start * block_stride;
    }
};

// The split of these distances (in [0, modulus), sorted) with the fewest key switches for a map of so many ciphertexts. Depends on
// integers alone: two machines find the same.
StepSplit split_steps(std::span<const int> distances, int modulus, int inputs, int outputs);

// Where a distance is in a split: the numbers of its giant step (block * row_steps + row) and of its baby step
// (second * first.size() + first), and by how much both rotate.
struct StepPlace {
    int giant = -1, baby = -1;
    int rotation = 0, giant_rotation = 0;
};

// By distance modulo `modulus`; those that the split does not reach have no giant step.
std::vector<StepPlace> step_places(const StepSplit& split, int modulus);

}  // namespace fheinfer
