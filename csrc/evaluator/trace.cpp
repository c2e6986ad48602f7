#include "evaluator/trace.h"

#include <algorithm>

#include "base/error.h"
#include "evaluator/level_rules.h"

namespace fheinfer {

namespace {

CiphertextPtr at(int level) {
    return std::make_shared<TraceCiphertext>(level);
}

}  // namespace

CiphertextPtr TraceEvaluator::encrypt(int level) const {
    return at(check_drop(levels_.top, level));
}

int TraceEvaluator::level(const CiphertextPtr& x) const {
    if (const auto* p = dynamic_cast<const TraceCiphertext*>(x.get()))
        return p->level;
    throw Error(ErrorKind::kUsage, "not a ciphertext of the trace evaluator");
}

void TraceEvaluator::use_key(int k, int limbs) {
    int& height = report_.rotation_keys[k];
    height      = std::max(height, limbs);
}

CiphertextPtr TraceEvaluator::add(const CiphertextPtr& x, const CiphertextPtr& y) {
    return at(std::min(level(x), level(y)));
}

CiphertextPtr TraceEvaluator::add_plain(const CiphertextPtr& x, std::span<const double> values) {
    check_period(values.size(), slots_);
    return x;
}

CiphertextPtr TraceEvaluator::multiply(const CiphertextPtr& x, const CiphertextPtr& y) {
    const int low = std::min(level(x), level(y));
    ++report_.products[levels_.limbs(low)];
    return at(level_after(low, 1, "product"));
}

CiphertextPtr TraceEvaluator::multiply_accumulate(std::span<const CiphertextPtr> xs, std::span<const Diagonal> factors) {
    bool any = false;
    int low  = levels_.top;
    for (std::size_t t = 0; t < xs.size(); ++t) {
        if (factors[t].empty())
            continue;
        check_period(factors[t].size(), slots_);
        any             = true;
        const int limbs = levels_.limbs(level(xs[t]));
        low             = std::min(low, level(xs[t]));
        ++report_.plain_multiplications[limbs];
        report_.encoded_values[limbs] += static_cast<int64_t>(factors[t].size());
    }
    return any ? at(low) : nullptr;
}

CiphertextPtr TraceEvaluator::rescale(const CiphertextPtr& x) {
    ++report_.rescales[levels_.limbs(level(x))];
    return at(level_after(level(x), 1, "multiplication"));
}

CiphertextPtr TraceEvaluator::rotate(const CiphertextPtr& x, int k) {
    if (k == 0)
        return x;
    const int limbs = levels_.limbs(level(x));
    use_key(k, limbs);
    ++report_.key_switches[limbs];
    return x;
}

std::vector<CiphertextPtr> TraceEvaluator::rotate_many(const CiphertextPtr& x, std::span<const int> ks) {
    const int limbs  = levels_.limbs(level(x));
    const auto moved = std::count_if(ks.begin(), ks.end(), [](int k) { return k != 0; });
    for (int k : ks)
        if (k != 0)
            use_key(k, limbs);
    if (moved > 0) {
        report_.hoisted_key_switches[limbs] += static_cast<int>(moved);
        ++report_.mod_ups[limbs];
    }
    return std::vector<CiphertextPtr>(ks.size(), x);
}

CiphertextPtr TraceEvaluator::chebyshev(const CiphertextPtr& x, std::span<const double> coefficients) {
    const int degree = static_cast<int>(coefficients.size()) - 1;
    const int after  = level_after(level(x), levels_.chebyshev_depth(degree), "polynomial");
    ++report_.polynomials[degree][levels_.limbs(level(x))];
    return at(after);
}

CiphertextPtr TraceEvaluator::bootstrap(const CiphertextPtr& x) {
    check_bootstrap(level(x), levels_);
    ++report_.bootstraps;
    return at(levels_.after_bootstrap);
}

CiphertextPtr TraceEvaluator::drop_to(const CiphertextPtr& x, int target) {
    return at(check_drop(level(x), target));
}

std::vector<CiphertextPtr> TraceEvaluator::linear_map(std::span<const CiphertextPtr> xs, const LinearMap& map) {
    check_linear_map(xs.size(), map, slots_);
    if (map.is_complex())
        throw Error(ErrorKind::kUsage, "complex diagonals need the native evaluator");
    int low = levels_.top;
    for (const auto& x : xs) {
        baby_steps(x, map);
        low = std::min(low, level(x));
    }
    const int limbs = levels_.limbs(low);
    const CiphertextPtr y = at(low);
    std::vector<CiphertextPtr> ys;
    const std::size_t of_one = map.diagonals() / map.outputs;
    for (int j = 0; j < map.outputs; ++j) {
        const auto first   = map.present.begin() + static_cast<std::ptrdiff_t>(j * of_one);
        const auto present = std::count(first, first + static_cast<std::ptrdiff_t>(of_one), 1);
        report_.plain_multiplications[limbs] += static_cast<int>(present);
        report_.encoded_values[limbs] += present * static_cast<int64_t>(map.period);
        for (int b = map.block_steps - 1; b >= 0; --b) {
            for (int r = map.row_steps - 1; r > 0; --r)
                rotate(y, map.row_stride);
            if (b > 0)
                rotate(y, map.block_stride);
        }
        rotate(y, map.shift);
        for (int k : map.rotate_and_sum)
            rotate(y, k);
        ys.push_back(rescale(y));
    }
    return ys;
}

}  // namespace fheinfer
