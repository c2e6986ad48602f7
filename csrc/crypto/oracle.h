// What OpenFHE computes where csrc/ring computes the same: for benchmarks and tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace fheinfer {

// Transform and automorphism of one limb.
class OpenFheLimb {
public:
    // Of a ring of dimension n, modulo the prime p; coefficients x, or with `evaluation` values. Throws Error(kUsage) where
    // there is no such transform.
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
