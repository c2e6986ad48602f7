// What OpenFHE computes where we compute the same: for tests and benchmarks of csrc/ring and csrc/ckks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "crypto/serial.h"

namespace fheinfer {

// The ciphertext of this payload divided by its last prime.
std::string openfhe_rescale(const Context& context, Bytes ciphertext);

// Transform and automorphism of one limb.
class OpenFheLimb {
public:
    // Of a ring of dimension n, modulo the prime p; coefficients x, or with `evaluation` values.
    OpenFheLimb(std::size_t n, uint64_t p, const std::vector<uint64_t>& x, bool evaluation);
    ~OpenFheLimb();

    // The root that OpenFHE transforms by: the psi of ring/ntt.h.
    uint64_t psi() const;
    std::vector<uint64_t> values() const;
    // From coefficients to values or back.
    void transform();
    void automorphism(uint32_t k);

private:
    struct Limb;
    std::unique_ptr<Limb> limb_;
};

}  // namespace fheinfer
