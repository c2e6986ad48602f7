// Exact evaluation on clear doubles: what the plan computes, without encryption.
#pragma once

#include "evaluator/evaluator.h"

namespace fheinfer {

class SlotsCiphertext final : public Ciphertext {
public:
    SlotsCiphertext(std::vector<double> values, int level) : values(std::move(values)), level(level) {}
    const std::vector<double> values;
    const int level;
};

// Levels are counted as an encrypted run would, so a plan that runs out of them fails here too.
class SlotsEvaluator final : public Evaluator {
public:
    SlotsEvaluator(std::size_t slots, LevelModel levels, KeyPolicy keys = KeyPolicy::kFast);

    CiphertextPtr encrypt(std::span<const double> values, int level) const;
    std::vector<double> decrypt(const CiphertextPtr& x) const;

    std::size_t slots() const override {
        return slots_;
    }
    const LevelModel& levels() const override {
        return levels_;
    }
    int level(const CiphertextPtr& x) const override;
    CiphertextPtr add(const CiphertextPtr& x, const CiphertextPtr& y) override;
    CiphertextPtr add_plain(const CiphertextPtr& x, std::span<const double> values) override;
    CiphertextPtr multiply(const CiphertextPtr& x, const CiphertextPtr& y) override;
    CiphertextPtr multiply_accumulate(std::span<const CiphertextPtr> xs, std::span<const Diagonal> factors) override;
    CiphertextPtr rescale(const CiphertextPtr& x) override;
    CiphertextPtr rotate(const CiphertextPtr& x, int k) override;
    std::vector<CiphertextPtr> rotate_many(const CiphertextPtr& x, std::span<const int> ks) override;
    CiphertextPtr chebyshev(const CiphertextPtr& x, std::span<const double> coefficients) override;
    CiphertextPtr bootstrap(const CiphertextPtr& x) override;
    CiphertextPtr drop_to(const CiphertextPtr& x, int level) override;

private:
    std::size_t slots_;
    LevelModel levels_;
};

}  // namespace fheinfer
