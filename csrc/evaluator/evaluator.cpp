#include "evaluator/evaluator.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "base/error.h"
#include "evaluator/constants.h"
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
std::vector<CiphertextPtr> Evaluator::rotate_stepwise(const CiphertextPtr& x, std::span<const int> ks) {
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

std::vector<CiphertextPtr> Evaluator::baby_steps(const CiphertextPtr& x, const LinearMap& map) {
    const auto rotated = [this](const CiphertextPtr& y, std::span<const int> ks) {
        return keys_ == KeyPolicy::kMinimal ? rotate_stepwise(y, ks) : rotate_many(y, ks);
    };
    std::vector<CiphertextPtr> out(map.baby_steps());
    const auto first = rotated(x, map.first);
    for (std::size_t f = 0; f < first.size(); ++f) {
        const auto second = rotated(first[f], map.second);
        for (std::size_t s = 0; s < second.size(); ++s)
            out[s * first.size() + f] = second[s];
    }
    return out;
}

CiphertextPtr Evaluator::linear_map(const CiphertextPtr& x, const LinearMap& map) {
    return linear_map(std::span<const CiphertextPtr>(&x, 1), map)[0];
}

std::vector<CiphertextPtr> Evaluator::linear_map(std::span<const CiphertextPtr> xs, const LinearMap& map) {
    return elementary_linear_map(xs, map);
}

CiphertextPtr Evaluator::linear_map(const CiphertextPtr& x, LinearMapConstants& constants) {
    return linear_map(std::span<const CiphertextPtr>(&x, 1), constants)[0];
}

std::vector<CiphertextPtr> Evaluator::linear_map(std::span<const CiphertextPtr> xs, LinearMapConstants& constants) {
    return linear_map(xs, constants.map());
}

std::vector<CiphertextPtr> Evaluator::elementary_linear_map(std::span<const CiphertextPtr> xs, const LinearMap& map) {
    check_linear_map(xs.size(), map, slots());
    if (map.is_complex())
        throw Error(ErrorKind::kUsage, "complex diagonals need the native evaluator");
    std::vector<CiphertextPtr> babies;
    for (const auto& x : xs)
        for (auto& step : baby_steps(x, map))
            babies.push_back(std::move(step));
    const auto horner = [this](const CiphertextPtr& sum, const CiphertextPtr& term, int stride) -> CiphertextPtr {
        if (!sum)
            return term;
        const auto moved = rotate(sum, stride);
        return term ? add(moved, term) : moved;
    };
    std::vector<CiphertextPtr> ys;
    std::vector<Diagonal> factors(map.terms());
    for (int j = 0; j < map.outputs; ++j) {
        CiphertextPtr y;
        for (int b = map.block_steps - 1; b >= 0; --b) {
            CiphertextPtr block;
            for (int r = map.row_steps - 1; r >= 0; --r) {
                const std::size_t sum = map.index(j, b * map.row_steps + r, 0, 0);
                for (std::size_t t = 0; t < factors.size(); ++t)
                    factors[t] = map.diagonal(sum + t);
                block = horner(block, multiply_accumulate(babies, factors), map.row_stride);
            }
            y = horner(y, block, map.block_stride);
        }
        if (map.shift != 0)
            y = rotate(y, map.shift);
        for (int k : map.rotate_and_sum)
            y = add(y, rotate(y, k));
        ys.push_back(rescale(y));
    }
    return ys;
}

}  // namespace fheinfer
