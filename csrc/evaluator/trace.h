// Runs a kernel without values: which rotations it uses at which level, and how much work it is.
#pragma once

#include <cstdint>
#include <map>

#include "evaluator/evaluator.h"

namespace fheinfer {

class TraceCiphertext final : public Ciphertext {
public:
    explicit TraceCiphertext(int level) : level(level) {}
    const int level;
};

// Work by the number of limbs it was done on, so that a cost model can price it.
struct TraceReport {
    std::map<int, int> rotation_keys;           // rotation -> limbs its key needs (highest use)
    std::map<int, int> key_switches;            // limbs -> rotations that needed their own ModUp
    std::map<int, int> hoisted_key_switches;    // limbs -> rotations that shared one
    std::map<int, int> mod_ups;                 // limbs -> shared ModUps
    std::map<int, int> plain_multiplications;   // limbs -> encoded plaintexts multiplied
    std::map<int, int64_t> encoded_values;      // limbs -> values in those plaintexts: the sum of their periods
    std::map<int, int> rescales;                // limbs before
    std::map<int, std::map<int, int>> polynomials;  // degree -> limbs at its input -> count
    std::map<int, int> products;                // limbs -> products of ciphertexts
    int bootstraps = 0;
};

class TraceEvaluator final : public Evaluator {
public:
    TraceEvaluator(std::size_t slots, LevelModel levels, KeyPolicy keys = KeyPolicy::kFast)
        : Evaluator(keys), slots_(slots), levels_(levels) {}

    CiphertextPtr encrypt(int level) const;
    const TraceReport& report() const {
        return report_;
    }
    // Starts counting afresh; the rotation keys seen so far are forgotten too.
    void reset() {
        report_ = {};
    }

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
    using Evaluator::linear_map;
    // Counts what elementary_linear_map would, without any diagonal.
    std::vector<CiphertextPtr> linear_map(std::span<const CiphertextPtr> xs, const LinearMap& map) override;

private:
    void use_key(int k, int limbs);

    std::size_t slots_;
    LevelModel levels_;
    TraceReport report_;
};

}  // namespace fheinfer
