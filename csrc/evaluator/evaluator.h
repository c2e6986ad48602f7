// The operations a network may use. Kernels are written once against this interface and run on clear slots
// (slots.h), as a cost and key-manifest trace (trace.h), or on OpenFHE ciphertexts (openfhe.h).
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/key_policy.h"
#include "base/linear_map.h"

namespace fheinfer {

// What an evaluator computes on; each evaluator derives its own. Shared and never changed after it is made.
class Ciphertext {
public:
    virtual ~Ciphertext() = default;
};
using CiphertextPtr = std::shared_ptr<const Ciphertext>;

// Levels: a ciphertext at level l can be multiplied and rescaled l times.
struct LevelModel {
    int top             = 0;      // level of a fresh ciphertext that uses every limb
    int after_bootstrap = 0;      // level a bootstrap returns
    int bootstrap_min   = 1;      // lowest level a bootstrap accepts
    bool openfhe_series = false;  // Chebyshev series go through OpenFHE's EvalChebyshevSeries
    bool composite      = false;  // a limb for every two levels (ckks/chain.h)

    // Limbs of a ciphertext at a level: all of a key that are in use.
    int limbs(int level) const {
        return composite ? level / 2 + 1 + level % 2 : level + 1;
    }

    // Levels a Chebyshev series of this degree on [-1, 1] consumes: ceil(log2(degree + 1)), the least there is; or
    // OpenFHE's one to four more (1.4.2, FUNCTION_EVALUATION.md, less the one level its affine change of variable takes
    // on other intervals).
    int chebyshev_depth(int degree) const;
};

class LinearMapConstants;

class Evaluator {
public:
    // keys: which rotations there are keys for.
    explicit Evaluator(KeyPolicy keys = KeyPolicy::kFast) : keys_(keys) {}
    virtual ~Evaluator() = default;

    KeyPolicy keys() const {
        return keys_;
    }
    virtual std::size_t slots() const       = 0;
    virtual const LevelModel& levels() const = 0;
    virtual int level(const CiphertextPtr& x) const = 0;

    // Slot-wise. `values` has a power-of-two length that divides slots() and repeats.
    virtual CiphertextPtr add(const CiphertextPtr& x, const CiphertextPtr& y)                       = 0;
    virtual CiphertextPtr add_plain(const CiphertextPtr& x, std::span<const double> values)         = 0;
    // Slot-wise product, 1 level below the lower of both.
    virtual CiphertextPtr multiply(const CiphertextPtr& x, const CiphertextPtr& y) = 0;
    // sum_i xs[i] * factors[i] over the factors that are not empty; null when all are. Not rescaled.
    virtual CiphertextPtr multiply_accumulate(std::span<const CiphertextPtr> xs, std::span<const Diagonal> factors) = 0;
    virtual CiphertextPtr rescale(const CiphertextPtr& x) = 0;  // 1 level

    // Slot i + k moves to slot i.
    virtual CiphertextPtr rotate(const CiphertextPtr& x, int k) = 0;
    // One decomposition (ModUp) for all rotations of the same ciphertext.
    virtual std::vector<CiphertextPtr> rotate_many(const CiphertextPtr& x, std::span<const int> ks) = 0;

    // sum_k coefficients[k] * T_k(x) for x in [-1, 1]; consumes levels().chebyshev_depth(degree).
    virtual CiphertextPtr chebyshev(const CiphertextPtr& x, std::span<const double> coefficients) = 0;
    virtual CiphertextPtr bootstrap(const CiphertextPtr& x)                                       = 0;
    virtual CiphertextPtr drop_to(const CiphertextPtr& x, int level)                              = 0;

    // Slot-wise product with clear values; 1 level.
    CiphertextPtr multiply_plain(const CiphertextPtr& x, std::span<const double> values);
    // y_j = sum_i M_ji x_i; 1 level. By the operations above, unless an evaluator has something faster.
    virtual std::vector<CiphertextPtr> linear_map(std::span<const CiphertextPtr> xs, const LinearMap& map);
    CiphertextPtr linear_map(const CiphertextPtr& x, const LinearMap& map);
    // The map of `constants`, with what they keep of it where this evaluator can use it.
    virtual std::vector<CiphertextPtr> linear_map(std::span<const CiphertextPtr> xs, LinearMapConstants& constants);
    CiphertextPtr linear_map(const CiphertextPtr& x, LinearMapConstants& constants);
    // Always by the operations above: what a faster one is tested against.
    std::vector<CiphertextPtr> elementary_linear_map(std::span<const CiphertextPtr> xs, const LinearMap& map);

protected:
    // The baby steps of a map in their order, from the keys there are.
    std::vector<CiphertextPtr> baby_steps(const CiphertextPtr& x, const LinearMap& map);

private:
    std::vector<CiphertextPtr> rotate_stepwise(const CiphertextPtr& x, std::span<const int> ks);

    KeyPolicy keys_;
};

}  // namespace fheinfer
