// Negacyclic number-theoretic transform in the order of OpenFHE: natural to bit-reversed and back. Position i of a
// transform holds the value at psi^(2 * bit_reverse(i) + 1).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ring/modulus.h"

namespace fheinfer::ring {

class Ntt {
public:
    // psi: a primitive 2n-th root of unity modulo m. n: a power of two, 16 or more.
    Ntt(std::size_t n, const Modulus& m, uint64_t psi);

    // The part of a transform that gives the first half of its values, from what its first stage leaves there:
    // x_i + psi^(n/2) x_(i + n/2). Of half the size; forward only.
    static Ntt first_half(const Ntt& whole);

    // In place, canonical residues in and out; 64-byte aligned.
    void forward(uint64_t* x) const;
    void inverse(uint64_t* x) const;

    std::size_t size() const {
        return n_;
    }
    const Modulus& modulus() const {
        return m_;
    }
    uint64_t psi() const {
        return psi_;
    }

    // Powers of psi in bit-reversed order, and their 52-bit quotients (values stay below 2^52); entry 0 is not used.
    struct Table {
        std::vector<uint64_t> value, quotient52;
    };
    const Table& powers() const {
        return powers_;
    }
    const Table& inverse_powers() const {
        return inverse_powers_;
    }
    // 1 / n, and the last inverse power over n: the last stage of the inverse scales.
    const Factor& inverse_n() const {
        return inverse_n_;
    }
    const Factor& last_over_n() const {
        return last_over_n_;
    }

private:
    Ntt() = default;

    std::size_t n_ = 0;
    Modulus m_;
    uint64_t psi_ = 0;
    Table powers_, inverse_powers_;
    Factor inverse_n_, last_over_n_;
};

}  // namespace fheinfer::ring
