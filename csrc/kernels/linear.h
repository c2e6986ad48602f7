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

// The matrix `weight` (out, channels * height * width), row-major, as a linear transform: the distances between cell
// column and output are hoisted, cell rows a Horner sum, blocks folded. For a vector (one row of a grid one row high) it is
// baby-step giant-step over all distances. Throws Error(kPlan) where `in` is skewed.
LinearTransform linear_transform(std::span<const double> weight, const Layout& in, const Layout& out);

// One level, and one more with `mask`, which clears the partial sums the folds leave beside the features: the final
// layer masks, so that the client decrypts the logits and nothing else.
CiphertextPtr linear(Evaluator& evaluator, const CiphertextPtr& x, std::span<const double> weight,
                     std::span<const double> bias, const Layout& in, const Layout& out, bool mask);

}  // namespace fheinfer
