// Two inputs in one ciphertext of the native backend: one in the real parts of the slots, one in the imaginary parts.
// Linear maps with real factors, which is nearly all of a network, are the same for both at no cost; a product takes them
// apart, which is one conjugation and one product more.
#pragma once

#include "evaluator/native.h"

namespace fheinfer {

// Every operation acts on both inputs alike. No bootstraps: they see real parts only.
class TwoInputs final : public Evaluator {
public:
    // `one` has a conjugation key of all limbs, and outlives this.
    explicit TwoInputs(NativeEvaluator& one) : Evaluator(one.keys()), one_(one) {}

    // x + i y. Throws Error(kUsage) for ciphertexts of different levels.
    CiphertextPtr join(const CiphertextPtr& x, const CiphertextPtr& y);
    // Twice what each is, at the scale of z.
    std::pair<CiphertextPtr, CiphertextPtr> twice_each(const CiphertextPtr& z);

    std::size_t slots() const override {
        return one_.slots();
    }
    const LevelModel& levels() const override {
        return one_.levels();
    }
    int level(const CiphertextPtr& x) const override {
        return one_.level(x);
    }
    CiphertextPtr add(const CiphertextPtr& x, const CiphertextPtr& y) override {
        return one_.add(x, y);
    }
    CiphertextPtr add_plain(const CiphertextPtr& x, std::span<const double> values) override;
    CiphertextPtr multiply(const CiphertextPtr& x, const CiphertextPtr& y) override;
    CiphertextPtr multiply_accumulate(std::span<const CiphertextPtr> xs, std::span<const Diagonal> factors) override {
        return one_.multiply_accumulate(xs, factors);
    }
    CiphertextPtr rescale(const CiphertextPtr& x) override {
        return one_.rescale(x);
    }
    CiphertextPtr rotate(const CiphertextPtr& x, int k) override {
        return one_.rotate(x, k);
    }
    std::vector<CiphertextPtr> rotate_many(const CiphertextPtr& x, std::span<const int> ks) override {
        return one_.rotate_many(x, ks);
    }
    CiphertextPtr chebyshev(const CiphertextPtr& x, std::span<const double> coefficients) override;
    CiphertextPtr bootstrap(const CiphertextPtr& x) override;
    CiphertextPtr drop_to(const CiphertextPtr& x, int level) override {
        return one_.drop_to(x, level);
    }
    using Evaluator::linear_map;
    std::vector<CiphertextPtr> linear_map(std::span<const CiphertextPtr> xs, const LinearMap& map) override {
        return one_.linear_map(xs, map);
    }
    std::vector<CiphertextPtr> linear_map(std::span<const CiphertextPtr> xs, LinearMapConstants& constants) override {
        return one_.linear_map(xs, constants);
    }

private:
    // Each as it is: at twice the scale of z, which a product or a sum with plain numbers takes into account.
    std::pair<ckks::Ciphertext, ckks::Ciphertext> each(const ckks::Ciphertext& z) const;

    NativeEvaluator& one_;
};

}  // namespace fheinfer
