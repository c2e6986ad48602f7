// Pooling and fully connected layers: what stands between the last convolution and the logits.
#pragma once

#include <span>

#include "base/layout.h"
#include "evaluator/evaluator.h"

namespace fheinfer {

// Global sum over height and width by rotate-and-add, no level: the sum of channel c stands in slot(c, 0, 0), every
// other slot holds a partial sum. (The compiler folds the division by height * width into the next layer.)
// Height and width must be powers of two.
Layout sum_pool_output(const Layout& in);
CiphertextPtr sum_pool(Evaluator& evaluator, const CiphertextPtr& x, const Layout& in);

// Features 0, 1, ... in slots 0, 1, ... of one row.
Layout linear_output(const Layout& in, int out_features);

// The matrix `weight` (out, channels * height * width), row-major, as a linear map: the distances between cell column and
// output are hoisted, cell rows a Horner sum, blocks added up by rotate-and-sum. For a vector (one row of a grid one row high)
// it is baby-step giant-step over all distances. With `mask` its output has a finer scale, which the mask can spare. Throws
// Error(kPlan) where `in` has rotated replicas.
LinearMap linear_layer_map(std::span<const double> weight, const Layout& in, const Layout& out, bool mask);

// One level, and one more with `mask`, which clears the partial sums that rotate-and-sum leaves beside the features: the final
// layer masks, so that the client decrypts the logits and nothing else.
CiphertextPtr linear(Evaluator& evaluator, const CiphertextPtr& x, std::span<const double> weight,
                     std::span<const double> bias, const Layout& in, const Layout& out, bool mask);
// What follows the map: the mask and the bias.
CiphertextPtr linear_tail(Evaluator& evaluator, CiphertextPtr y, std::span<const double> bias, const Layout& out, bool mask);

}  // namespace fheinfer
