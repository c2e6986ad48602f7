// A linear map on slots by its diagonals: baby steps and giant steps with double hoisting (ePrint 2020/1203).
#pragma once

#include <map>
#include <vector>

#include "base/key_policy.h"
#include "ckks/ciphertext.h"
#include "ckks/encoder.h"

namespace fheinfer::ckks {

// out[i] = sum_k diagonals[k][i] x[i + k], indices modulo the number of slots.
using Diagonals = std::map<int, std::vector<Complex>>;

// Diagonal offsets (first + b) * stride + g * baby * stride for b < baby, g < giant. Giant steps are a Horner sum with
// one rotation by baby * stride: with double hoisting each costs a ModDown and a ModUp either way, and this needs one key.
//
// The first `hoisted` baby steps have a key each and share a ModUp. The next so many are the same steps of the input
// rotated by hoisted * stride, and so on: a key switch for each such part instead of keys.
struct Steps {
    int first = 0, hoisted = 1, baby = 1, giant = 1, stride = 1;

    // For offsets that are multiples of `stride`, between `lowest` and `highest` of them.
    static Steps fit(int lowest, int highest, int stride, KeyPolicy keys);
    std::vector<int> rotations() const;
};

class Transform {
public:
    // For ciphertexts of `limbs` limbs and keys of `specials` special primes; `scale` is that of the encoded diagonals.
    Transform(const Chain& chain, const Diagonals& diagonals, const Steps& steps, std::size_t limbs, std::size_t specials,
              double scale);

    // Rescaled: one level lower.
    Ciphertext apply(const Chain& chain, const Keys& keys, const Ciphertext& x) const;

private:
    Steps steps_;
    std::size_t limbs_, specials_, repeat_;
    double scale_;
    std::vector<Poly> plain_;  // [giant][baby]; without rows where the diagonal is zero
};

}  // namespace fheinfer::ckks
