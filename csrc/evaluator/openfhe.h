// Encrypted evaluation by OpenFHE's own operations: the reference every faster evaluator is checked against.
#pragma once

#include <string>

#include "crypto/serial.h"
#include "evaluator/evaluator.h"

namespace fheinfer {

class OpenFheCiphertext final : public Ciphertext {
public:
    explicit OpenFheCiphertext(OpenFheCt ct) : ct(std::move(ct)) {}
    const OpenFheCt ct;
};

// Holds evaluation keys and no secret. Every value it returns is rescaled, except the sums of multiply_accumulate and
// what rotate and add make of them, until `rescale`.
class OpenFheEvaluator final : public Evaluator {
public:
    OpenFheEvaluator(std::shared_ptr<Context> context, std::string key_tag, KeyPolicy keys);
    ~OpenFheEvaluator() override;

    void add_relinearisation_key(Bytes body);
    void add_conjugation_key(Bytes body);
    void add_rotation_key(int rotation, Bytes body);
    void add_encapsulation_keys(Bytes to_sparse, Bytes to_dense);
    // Computes OpenFHE's bootstrapping tables (seconds, and the largest block of memory of a run).
    void prepare_bootstrap();

    CiphertextPtr read(Bytes body) const;
    // See ckks/ciphertext_format.h for `dropped`.
    std::string write(const CiphertextPtr& x, int dropped = 0) const;

    std::size_t slots() const override {
        return context_->params().slots;
    }
    const LevelModel& levels() const override {
        return context_->levels();
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
    // Throws Error(kBackend) for a key of fewer limbs: OpenFHE would read past its end.
    OpenFheKey read_key(Bytes body, std::size_t limbs, const char* what) const;
    void insert_automorphism_key(uint32_t index, OpenFheKey key);
    void require_rotation(int k, int limbs) const;

    std::shared_ptr<Context> context_;
    std::string tag_;
    std::map<int, int> rotation_limbs_;  // what was loaded: rotation -> limbs
    bool has_relinearisation_ = false, has_conjugation_ = false, has_encapsulation_ = false;
    bool bootstrap_ready_ = false;
};

}  // namespace fheinfer
