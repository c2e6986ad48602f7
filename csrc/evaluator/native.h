// The native backend: encrypted evaluation by csrc/ckks and csrc/ring. No OpenFHE.
#pragma once

#include <map>
#include <memory>

#include "ckks/bootstrap.h"
#include "ckks/ciphertext.h"
#include "evaluator/constants.h"
#include "evaluator/evaluator.h"

namespace fheinfer {

class NativeCiphertext final : public Ciphertext {
public:
    explicit NativeCiphertext(ckks::Ciphertext value) : value(std::move(value)) {}
    const ckks::Ciphertext value;
};

// Holds evaluation keys and no secret. What it returns is rescaled and at the scale of its level, except the sums of
// multiply_accumulate and what rotate and add make of them, until `rescale`.
class NativeEvaluator : public Evaluator {
public:
    // scales: by level. bootstrap: what a bootstrap is made of; null for a chain without.
    NativeEvaluator(std::shared_ptr<const ckks::Chain> chain, std::vector<double> scales, LevelModel levels,
                    std::size_t slots, const ckks::BootstrapParameters& bootstrap);

    // Those that have to reach over the whole chain throw Error(kBackend) where they do not.
    void set_relinearisation_key(ckks::SwitchingKey key);
    void set_conjugation_key(ckks::SwitchingKey key) {
        keys_.add(2 * chain_->n() - 1, std::move(key));
    }
    void add_rotation_key(int rotation, ckks::SwitchingKey key) {
        keys_.add(ring::rotation_exponent(chain_->n(), rotation), std::move(key));
    }
    void set_encapsulation_keys(ckks::SwitchingKey to_sparse, ckks::SwitchingKey to_dense);
    // Encodes the matrices of CoeffToSlot and SlotToCoeff.
    void prepare_bootstrap();

    CiphertextPtr wrap(ckks::Ciphertext x) const {
        return std::make_shared<NativeCiphertext>(std::move(x));
    }
    static const ckks::Ciphertext& get(const CiphertextPtr& x);
    const ckks::Chain& chain() const {
        return *chain_;
    }
    // The complex conjugate of every slot.
    ckks::Ciphertext conjugate(const ckks::Ciphertext& x) const;
    CiphertextPtr relinearise(ckks::Product product) const;

    std::size_t slots() const override {
        return slots_;
    }
    const LevelModel& levels() const override {
        return levels_;
    }
    int level(const CiphertextPtr& x) const override {
        return chain_->level(get(x).c0);
    }
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
    std::vector<CiphertextPtr> linear_map(std::span<const CiphertextPtr> xs, const LinearMap& map) override;
    std::vector<CiphertextPtr> linear_map(std::span<const CiphertextPtr> xs, LinearMapConstants& constants) override;

private:
    // Diagonals at `scale`, on the limbs of `x`; no rows for empty ones.
    std::vector<ckks::Poly> encode(std::span<const Diagonal> factors, std::size_t period, const ckks::Ciphertext& x, double scale) const;
    std::vector<CiphertextPtr> linear_map(std::span<const CiphertextPtr> xs, const LinearMap& map, LinearMapConstants* constants);
    // What the diagonals of a map of `x` are encoded for.
    ckks::Target target(const CiphertextPtr& x, const LinearMap& map) const;
    double factor_scale(const ckks::Ciphertext& x) const;

    std::shared_ptr<const ckks::Chain> chain_;
    std::vector<double> scales_;
    LevelModel levels_;
    std::size_t slots_;
    ckks::Keys keys_;
    ckks::BootstrapParameters parameters_;
    std::unique_ptr<ckks::Bootstrap> bootstrap_;
};

}  // namespace fheinfer
