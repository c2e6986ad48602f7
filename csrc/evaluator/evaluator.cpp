#include "evaluator/evaluator.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "base/error.h"
#include "evaluator/level_rules.h"

namespace fheinfer {

int LevelModel::chebyshev_depth(int degree) const {
    if (degree < 1)
        throw Error(ErrorKind::kUsage, "a Chebyshev series needs degree 1 or more");
    if (!openfhe_series)
        return std::bit_width(static_cast<unsigned>(degree));
    if (degree < 6)
        return 3;
    // 6-13: 4, 14-27: 5, 28-59: 6, 60-119: 7, 120-247: 8, 248-495: 9, ...: each depth reaches a little less than
    // twice as far as the one before, because OpenFHE's division by T_m leaves a baby-step remainder.
    static constexpr int kLast[] = {13, 27, 59, 119, 247, 495, 1007, 2031};
    int depth = 4;
    for (int last : kLast) {
        if (degree <= last)
            return depth;
        ++depth;
    }
    throw Error(ErrorKind::kUsage, "a Chebyshev series of degree " + std::to_string(degree) + " is too long; 2031 at most");
}

CiphertextPtr Evaluator::multiply_plain(const CiphertextPtr& x, std::span<const double> values) {
    check_period(values.size(), slots());
    const Diagonal factor(values.begin(), values.end());
    return rescale(multiply_accumulate({&x, 1}, {&factor, 1}));
}

// From the rotation nearest to none outwards, each made of the one before: a key for each direction.
std::vector<CiphertextPtr> Evaluator::walk(const CiphertextPtr& x, std::span<const int> ks) {
    const auto nearest = std::min_element(ks.begin(), ks.end(), [](int a, int b) { return std::abs(a) < std::abs(b); });
    const std::size_t start = static_cast<std::size_t>(nearest - ks.begin());
    std::vector<CiphertextPtr> out(ks.size());
    out[start] = rotate(x, ks[start]);
    for (std::size_t i = start + 1; i < ks.size(); ++i)
        out[i] = rotate(out[i - 1], ks[i] - ks[i - 1]);
    for (std::size_t i = start; i-- > 0;)
        out[i] = rotate(out[i + 1], ks[i] - ks[i + 1]);
    return out;
}

std::vector<CiphertextPtr> Evaluator::taps(const CiphertextPtr& x, const LinearTransform& t) {
    const auto rotated = [this](const CiphertextPtr& y, std::span<const int> ks) {
        return keys_ == KeyPolicy::kMinimal ? walk(y, ks) : rotate_many(y, ks);
    };
    std::vector<CiphertextPtr> out(t.taps());
    const auto columns = rotated(x, t.columns);
    for (std::size_t j = 0; j < columns.size(); ++j) {
        const auto rows = rotated(columns[j], t.rows);
        for (std::size_t i = 0; i < rows.size(); ++i)
            out[i * columns.size() + j] = rows[i];
    }
    return out;
}

CiphertextPtr Evaluator::linear_transform(const CiphertextPtr& x, const LinearTransform& t) {
    const auto taps   = this->taps(x, t);
    const auto horner = [this](const CiphertextPtr& sum, const CiphertextPtr& term, int stride) -> CiphertextPtr {
        if (!sum)
            return term;
        const auto moved = rotate(sum, stride);
        return term ? add(moved, term) : moved;
    };
    CiphertextPtr out;
    for (int b = t.block_steps - 1; b >= 0; --b) {
        CiphertextPtr block;
        for (int r = t.row_steps - 1; r >= 0; --r) {
            const std::span<const Diagonal> factors(&t.diagonal(b, r, 0), t.taps());
            block = horner(block, multiply_accumulate(taps, factors), t.row_stride);
        }
        out = horner(out, block, t.block_stride);
    }
    if (!out)
        throw Error(ErrorKind::kPlan, "a linear transform with no non-zero diagonal");
    if (t.shift != 0)
        out = rotate(out, t.shift);
    for (int fold : t.folds)
        out = add(out, rotate(out, fold));
    return rescale(out);
}

}  // namespace fheinfer
