// Parameter set -> OpenFHE context, refused unless it reaches 128 bits.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "ckks/chain.h"
#include "crypto/lbcrypto.h"
#include "evaluator/evaluator.h"

namespace fheinfer {

struct ParameterSet {
    int log_n           = 16;     // log2 of the ring dimension N
    int slots           = 16384;  // slots that carry data; bootstrapping works on these
    int first_bits      = 48;     // size of q_0
    int scale_bits      = 45;     // size of every other q_i, and of the scale
    int special_bits    = 50;     // size of the special primes of hybrid key switching
    int digits          = 2;      // dnum of hybrid key switching
    int cts_budget      = 3;      // levels of CoeffToSlot; 0 together with stc_budget: no bootstrapping
    int stc_budget      = 3;      // levels of SlotToCoeff
    int top_level       = 24;     // multiplicative depth, bootstrapping included
    bool native         = false;  // for the native backend (csrc/ckks) instead of OpenFHE's
    bool allow_insecure = false;  // tests only: skip the 128-bit check
    bool composite      = false;  // a prime of twice the scale's size for every two levels (ckks/chain.h)

    auto operator<=>(const ParameterSet&) const = default;
};

// Levels one bootstrap of OpenFHE consumes: CoeffToSlot, EvalMod (1 normalisation + 6 for its degree-32 series + 3 double
// angles) and SlotToCoeff.
int bootstrap_depth(int cts_budget, int stc_budget);

class Context {
public:
    // Throws Error(kPlan) when log2(QP) is above what the HomomorphicEncryption.org tables allow for 128 bits with a
    // ternary secret at this ring dimension, or when a prime would reach 2^50. One context per parameter set and
    // process: OpenFHE's factory keeps every context it makes.
    static std::shared_ptr<Context> create(const ParameterSet& params);

    const ParameterSet& params() const {
        return params_;
    }
    const LevelModel& levels() const {
        return levels_;
    }
    std::size_t ring_dimension() const {
        return std::size_t{1} << params_.log_n;
    }
    const std::vector<uint64_t>& q() const {
        return q_;
    }
    const std::vector<uint64_t>& p() const {
        return p_;
    }
    int log_qp() const {
        return log_qp_;
    }
    // The same primes for the native backend; made at the first call.
    const std::shared_ptr<const ckks::Chain>& chain() const;
    // Scale of a ciphertext at a level; but for composite-prime chains, as OpenFHE encodes there.
    double scale(int level) const;
    // What OpenFHE takes for the scale of a ciphertext of so many limbs.
    double openfhe_scale(std::size_t limbs) const;
    // Rotations that OpenFHE's bootstrapping uses, with the limbs each needs.
    std::map<int, int> bootstrap_rotations() const;

    const lbcrypto::CryptoContext<Poly>& openfhe() const {
        return cc_;
    }
    lbcrypto::CryptoParametersCKKSRNS& crypto_parameters() const;
    // Computes OpenFHE's bootstrapping tables: the encoded matrices of CoeffToSlot and SlotToCoeff.
    void prepare_bootstrap() const;
    // OpenFHE's correction factor, the bits by which a message is shrunk below q_0 before ModRaise. Equal to
    // log2(q_0 / scale), so that it stays as large as EvalMod's range allows: every bit more costs a bit of precision.
    uint32_t correction_factor() const;

private:
    Context() = default;
    static std::shared_ptr<Context> make(const ParameterSet& params);

    ParameterSet params_;
    LevelModel levels_;
    lbcrypto::CryptoContext<Poly> cc_;
    std::vector<uint64_t> q_, p_;
    ckks::Prime sprout_;          // of a composite-prime chain; OpenFHE does not know it
    std::vector<double> scales_;  // of a composite-prime chain, by level
    int log_qp_ = 0;
    mutable std::once_flag chain_once_;
    mutable std::shared_ptr<const ckks::Chain> chain_;
};

}  // namespace fheinfer
