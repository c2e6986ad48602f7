// Ciphertexts and the operations on them that need no packing: add, multiply, rotate, rescale.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "ckks/key_switch.h"
#include "ring/automorphism.h"

namespace fheinfer::ckks {

// (c0, c1) in evaluation form; slots are decrypted values divided by `scale`. Its level follows from its rows
// (Chain::level).
struct Ciphertext {
    Poly c0, c1;
    double scale = 0;

    std::size_t limbs() const {
        return c0.limbs();
    }
    Ciphertext first(std::size_t limbs) const {
        return {c0.first(limbs), c1.first(limbs), scale};
    }
};

// Evaluation keys. A rotation may have keys of several heights; the lowest that is high enough is used.
struct Keys {
    SwitchingKey relinearisation, to_sparse, to_dense;
    std::map<uint64_t, std::map<std::size_t, SwitchingKey>> automorphisms;  // by exponent, then limbs

    void add(uint64_t exponent, SwitchingKey key);
    // Of the first `primes` primes or more. Throws Error(kBackend) where there is none.
    const SwitchingKey& automorphism(uint64_t exponent, std::size_t primes) const;
    bool has(uint64_t exponent, std::size_t primes) const;
};

// Both of one height.
Ciphertext add(const Chain& chain, const Ciphertext& x, const Ciphertext& y);
Ciphertext subtract(const Chain& chain, const Ciphertext& x, const Ciphertext& y);
// Adds `value` to every slot.
void add_constant(const Chain& chain, Ciphertext& x, double value);
// x * k; the scale stays.
Ciphertext multiply_integer(const Chain& chain, const Ciphertext& x, int64_t k);
// Every slot times the imaginary unit, which is X^(n/2): exact, and no level.
Ciphertext multiply_by_i(const Chain& chain, const Ciphertext& x);

// sum_i xs[i] * cs[i] rescaled, at `level` and exactly at `scale`. The xs are at higher levels.
Ciphertext combine(const Chain& chain, std::span<const Ciphertext* const> xs, std::span<const double> cs, int level, double scale);

// (c0, c1) = sum_i xs[i] * cs[i], plus (c0, c1) when `accumulate`, at `scale` and not rescaled.
void add_combination(const Chain& chain, Poly& c0, Poly& c1, std::span<const Ciphertext* const> xs, std::span<const double> cs,
                     double scale, bool accumulate);

// A product before relinearisation, one level above what it becomes.
struct Product {
    Poly d0, d1, d2;
    double scale = 0;
};
// At the level of the lower of both.
Product multiply(const Chain& chain, const Ciphertext& x, const Ciphertext& y);
// sum += x. Both of one height and scale.
void add(const Chain& chain, Product& sum, const Product& x);
Product multiply_by_i(const Chain& chain, Product x);
// Relinearised and rescaled in one division.
Ciphertext relinearise(const Chain& chain, Product product, const SwitchingKey& key);

Ciphertext rescale(const Chain& chain, const Ciphertext& x);

// The automorphism by `exponent`, with its key.
Ciphertext rotate(const Chain& chain, const Keys& keys, const Ciphertext& x, uint64_t exponent);
// Several of one ciphertext from one ModUp.
std::vector<Ciphertext> rotate_many(const Chain& chain, const Keys& keys, const Ciphertext& x, std::span<const uint64_t> exponents);

// Permutation of an automorphism, made once for each.
const std::vector<uint32_t>& permutation(const Chain& chain, uint64_t exponent);

}  // namespace fheinfer::ckks
