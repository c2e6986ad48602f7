// Switching keys from a secret. The client's side: no file of the server includes this.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>

#include "base/secret.h"
#include "ckks/key_switch.h"
#include "ckks/random.h"

namespace fheinfer::ckks {

// One signed value per coefficient: a secret, or noise.
using SmallPoly = SecretVector<int64_t>;
using Noise     = std::function<SmallPoly()>;  // n values of the error distribution

// Residues of a secret or of noise, wiped at the end.
class SecretPoly {
public:
    SecretPoly() = default;
    SecretPoly(std::size_t limbs, std::size_t n) : poly_(limbs, n) {}
    SecretPoly(SecretPoly&& other) noexcept : poly_(std::exchange(other.poly_, Poly())) {}
    SecretPoly& operator=(SecretPoly&& other) noexcept {
        std::swap(poly_, other.poly_);
        return *this;
    }
    ~SecretPoly() {
        wipe(poly_[0], poly_.limbs() * poly_.n() * sizeof(uint64_t));
    }

    operator const Poly&() const {
        return poly_;
    }
    uint64_t* operator[](std::size_t limb) {
        return poly_[limb];
    }
    const uint64_t* operator[](std::size_t limb) const {
        return poly_[limb];
    }
    std::size_t limbs() const {
        return poly_.limbs();
    }

private:
    Poly poly_;
};

// x modulo every prime of the chain, in evaluation form.
SecretPoly evaluate(const Chain& chain, std::span<const int64_t> x);
// x(X^exponent).
SmallPoly automorphism(std::span<const int64_t> x, uint64_t exponent);

// Encrypts P * from under `to`, digit by digit, for ciphertexts of at most `limbs` limbs. `one_digit`: a single digit
// that holds all limbs, for polynomials below the special primes. Only the b halves; `a` is the keystream of the seed.
SwitchingKey switching_key(const Chain& chain, const Poly& from, const Poly& to, std::size_t limbs, std::size_t specials,
                           bool one_digit, const Seed& seed, const Noise& noise);
// Makes room for the uniform halves of a key.
void reserve_uniform(const Chain& chain, SwitchingKey& key);
// Fills in one row of one of them, in any order and on any thread.
void expand_row(const Chain& chain, SwitchingKey& key, const Seed& seed, std::size_t digit, std::size_t row);

}  // namespace fheinfer::ckks
