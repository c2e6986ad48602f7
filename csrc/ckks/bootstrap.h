// Bootstrapping: SlotToCoeff at the lowest levels, ModRaise under an ephemeral sparse secret (ePrint 2022/024),
// CoeffToSlot, EvalMod (Chebyshev series of a cosine and double angles). For real slots.
#pragma once

#include <vector>

#include "ckks/polynomial.h"
#include "ckks/linear_map.h"
#include "ckks/matrix.h"

namespace fheinfer::ckks {

struct BootstrapParameters {
    std::size_t slots = 0;
    int cts_budget    = 0;  // levels of CoeffToSlot
    int stc_budget    = 0;  // levels of SlotToCoeff
    KeyPolicy keys    = KeyPolicy::kFast;
};

// Levels of EvalMod: a series of degree 30, then three double angles.
inline constexpr int kEvalModSeriesDegree = 30;
inline constexpr int kDoubleAngles        = 3;
inline constexpr int kEvalModDepth        = 5 + kDoubleAngles;
// What ModRaise adds is at most this many times q_0, but for a probability that docs/explanation/precision.md states.
inline constexpr int kRange = 12;
// log2(q_0 / scale) at the bottom: the message's share of a period of the sine. More costs noise, less linearity.
inline constexpr int kRatioBits = 10;
// Weight of the ephemeral secret.
inline constexpr int kSparseWeight = 32;

struct RotationNeed {
    int rotation;
    std::size_t limbs;
};

// A factor of SlotToCoeff or CoeffToSlot, applied at `limbs` limbs.
struct MatrixShape {
    Steps steps;
    int diagonals;
    std::size_t limbs;
};

class Bootstrap {
public:
    // scales: by level of the chain. The matrices are encoded for the special primes that the rotation keys have; those of
    // one matrix have to be of one height.
    Bootstrap(const Chain& chain, const BootstrapParameters& parameters, const std::vector<double>& scales, const Keys& keys);

    // Slots of x in [-1, 1], at level stc_budget or higher; the result is at level top - cts_budget - kEvalModDepth and
    // the scale of that level.
    Ciphertext apply(const Keys& keys, const Ciphertext& x) const;

    // In the order they are applied, SlotToCoeff first.
    static std::vector<MatrixShape> matrices(const Chain& chain, const BootstrapParameters& parameters);
    static std::vector<RotationNeed> rotations(const Chain& chain, const BootstrapParameters& parameters);

private:
    Ciphertext raise(const Keys& keys, const Ciphertext& x) const;

    const Chain& chain_;
    BootstrapParameters parameters_;
    const std::vector<double>& scales_;
    // A factor, its diagonals encoded.
    struct Factor {
        LinearMap map;
        Target target;
        EncodedDiagonals diagonals;
    };
    std::vector<Factor> factors(const Keys& keys, bool to_slots, std::size_t limbs, double from, double to, double factor) const;
    Ciphertext multiply(const Keys& keys, const std::vector<Factor>& factors, Ciphertext x) const;

    std::vector<Factor> slot_to_coeff_, coeff_to_slot_;
    std::vector<double> cosine_;
};

}  // namespace fheinfer::ckks
