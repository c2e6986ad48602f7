#include "evaluator/slots.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "evaluator/level_rules.h"

namespace fheinfer {

namespace {

const SlotsCiphertext& get(const CiphertextPtr& x) {
    if (const auto* p = dynamic_cast<const SlotsCiphertext*>(x.get()))
        return *p;
    throw Error(ErrorKind::kUsage, "not a ciphertext of the slots evaluator");
}

CiphertextPtr make(std::vector<double> values, int level) {
    return std::make_shared<SlotsCiphertext>(std::move(values), level);
}

}  // namespace

SlotsEvaluator::SlotsEvaluator(std::size_t slots, LevelModel levels, KeyPolicy keys)
    : Evaluator(keys), slots_(slots), levels_(levels) {
    if (!std::has_single_bit(slots))
        throw Error(ErrorKind::kUsage, "the number of slots must be a power of two");
}

CiphertextPtr SlotsEvaluator::encrypt(std::span<const double> values, int level) const {
    check_period(values.size(), slots_);
    std::vector<double> all(slots_);
    for (std::size_t i = 0; i < slots_; ++i)
        all[i] = values[i % values.size()];
    return make(std::move(all), level);
}

std::vector<double> SlotsEvaluator::decrypt(const CiphertextPtr& x) const {
    return get(x).values;
}

int SlotsEvaluator::level(const CiphertextPtr& x) const {
    return get(x).level;
}

CiphertextPtr SlotsEvaluator::add(const CiphertextPtr& x, const CiphertextPtr& y) {
    std::vector<double> out(get(x).values);
    const auto& other = get(y).values;
    if (out.size() != other.size())
        throw Error(ErrorKind::kUsage, "ciphertexts of different numbers of slots");
    for (std::size_t i = 0; i < slots_; ++i)
        out[i] += other[i];
    return make(std::move(out), std::min(get(x).level, get(y).level));
}

CiphertextPtr SlotsEvaluator::add_plain(const CiphertextPtr& x, std::span<const double> values) {
    check_period(values.size(), slots_);
    std::vector<double> out(get(x).values);
    for (std::size_t i = 0; i < slots_; ++i)
        out[i] += values[i % values.size()];
    return make(std::move(out), get(x).level);
}

CiphertextPtr SlotsEvaluator::multiply(const CiphertextPtr& x, const CiphertextPtr& y) {
    std::vector<double> out(get(x).values);
    const auto& other = get(y).values;
    if (out.size() != other.size())
        throw Error(ErrorKind::kUsage, "ciphertexts of different numbers of slots");
    for (std::size_t i = 0; i < slots_; ++i)
        out[i] *= other[i];
    return make(std::move(out), level_after(std::min(get(x).level, get(y).level), 1, "product"));
}

CiphertextPtr SlotsEvaluator::multiply_accumulate(std::span<const CiphertextPtr> xs, std::span<const Diagonal> factors) {
    std::vector<double> out;
    int level = levels_.top;
    for (std::size_t t = 0; t < xs.size(); ++t) {
        if (factors[t].empty())
            continue;
        check_period(factors[t].size(), slots_);
        out.resize(slots_, 0.0);
        const auto& x = get(xs[t]);
        level         = std::min(level, x.level);
        for (std::size_t start = 0; start < slots_; start += factors[t].size())
            for (std::size_t i = 0; i < factors[t].size(); ++i)
                out[start + i] += x.values[start + i] * factors[t][i];
    }
    return out.empty() ? nullptr : make(std::move(out), level);
}

CiphertextPtr SlotsEvaluator::rescale(const CiphertextPtr& x) {
    return make(get(x).values, level_after(get(x).level, 1, "multiplication"));
}

CiphertextPtr SlotsEvaluator::rotate(const CiphertextPtr& x, int k) {
    std::vector<double> out(get(x).values);
    std::rotate(out.begin(), out.begin() + positive_rotation(k, slots_), out.end());
    return make(std::move(out), get(x).level);
}

std::vector<CiphertextPtr> SlotsEvaluator::rotate_many(const CiphertextPtr& x, std::span<const int> ks) {
    std::vector<CiphertextPtr> out;
    for (int k : ks)
        out.push_back(k == 0 ? x : rotate(x, k));
    return out;
}

CiphertextPtr SlotsEvaluator::chebyshev(const CiphertextPtr& x, std::span<const double> c) {
    const int level = level_after(get(x).level, levels_.chebyshev_depth(static_cast<int>(c.size()) - 1), "polynomial");
    std::vector<double> out(get(x).values);
    for (double& v : out) {  // Clenshaw
        double b1 = 0, b2 = 0;
        for (std::size_t k = c.size() - 1; k > 0; --k) {
            const double b0 = c[k] + 2 * v * b1 - b2;
            b2              = b1;
            b1              = b0;
        }
        v = c[0] + v * b1 - b2;
    }
    return make(std::move(out), level);
}

CiphertextPtr SlotsEvaluator::bootstrap(const CiphertextPtr& x) {
    check_bootstrap(get(x).level, levels_);
    return make(get(x).values, levels_.after_bootstrap);
}

CiphertextPtr SlotsEvaluator::drop_to(const CiphertextPtr& x, int level) {
    return make(get(x).values, check_drop(get(x).level, level));
}

}  // namespace fheinfer
