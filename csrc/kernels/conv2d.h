// 2-D convolution on multiplexed packing: any odd or even kernel, stride and padding, in one level.
#pragma once

#include <span>

#include "base/layout.h"
#include "evaluator/evaluator.h"

namespace fheinfer {

struct Conv2d {
    int kernel  = 3;
    int stride  = 1;
    int padding = 1;
};

// The layout of the output: same grid, gap multiplied by the stride, equal copies.
// Throws Error(kPlan) when the strided output does not fit the grid.
Layout conv2d_output(const Layout& in, int out_channels, const Conv2d& conv);

// The convolution as a linear map. `weight` is (out, in, kernel, kernel), row-major; the map keeps what it needs of it.
//
// Reading the kernel offset (ky, kx) of channel c for channel o is a rotation by dy * grid_width + dx + b * grid, where dy and
// dx span kernel and channel cells together and b is the distance of the two channels' blocks. Rotations by dx are hoisted;
// those by dy are hoisted on each of them when that needs fewer key switches, otherwise a Horner sum with one key; blocks are
// a Horner sum with one key (Optimized Vector Encoding: for a 3x3 kernel without gap the keys are +-1, +-width and one block
// step). `in` and `out` may each have rotated replicas. Where the input has a longer period than the output, because it has
// more blocks or rotated replicas, each part of a sum is formed in its own replica of the output and the replicas are added up
// by rotate-and-sum: an input of K rotated replicas to equal ones needs a K-th of the block distances.
// Diagonals that are all zero are omitted; rotations depend on the layouts alone.
LinearMap conv2d_map(std::span<const double> weight, const Layout& in, const Layout& out, const Conv2d& conv);

// in -> conv -> + bias (one value per output channel; may be empty). Slots of `out` that hold no element are zero
// if those of `in` are. One level.
CiphertextPtr conv2d(Evaluator& evaluator, const CiphertextPtr& x, std::span<const double> weight,
                     std::span<const double> bias, const Layout& in, const Layout& out, const Conv2d& conv);

// The last part of it: y + bias.
CiphertextPtr conv2d_bias(Evaluator& evaluator, const CiphertextPtr& y, std::span<const double> bias, const Layout& out);

// One value per channel, written to every slot of that channel.
std::vector<double> channel_vector(std::span<const double> values, const Layout& layout);

}  // namespace fheinfer
