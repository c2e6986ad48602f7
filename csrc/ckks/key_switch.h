// Hybrid key switching (ePrint 2019/688): ModUp, inner product with the key, ModDown. Polynomials are in evaluation form.
#pragma once

#include <vector>

#include "base/parallel.h"
#include "ckks/chain.h"
#include "ring/poly.h"

namespace fheinfer::ckks {

using ring::Poly;

// On small rings with few threads, to start threads for a loop over limbs takes as long as the loop: there, loops over more than
// limbs run in parallel and those over limbs inside them do not.
bool runs_whole(const Chain& chain);
// half(0) and half(1): what is done to both polynomials of a ciphertext.
template <typename Half>
void in_halves(const Chain& chain, const Half& half) {
    if (runs_whole(chain)) {
        parallel_for(2, half);
    }
    else {
        half(0);
        half(1);
    }
}

// Encrypts, digit by digit, P * s' under s. Works for every ciphertext of the first `limbs` primes or some of them.
struct SwitchingKey {
    std::size_t limbs    = 0;
    std::size_t specials = 0;
    std::vector<Poly> b, a;  // by digit; limbs + specials rows each
};

// How a remainder is taken off in a division. kApproximate is OpenFHE's ModDown: short by up to the number of primes
// divided by, which costs one to four bits; kRounded is the nearest integer.
enum class Rounding { kApproximate, kRounded };

// P of `specials` special primes modulo prime `prime` of Q.
ring::Factor special_product(const Chain& chain, std::size_t specials, std::size_t prime);

// The digits of x in the basis of its limbs and `specials` special primes: one more than the last digit that it has primes of.
std::vector<Poly> mod_up(const Chain& chain, const Poly& x, std::size_t specials);

// Both halves of sum_j digits[j] * key[j], for digits of `limbs` limbs.
struct Pair {
    Poly b, a;
};
Pair inner_product(const Chain& chain, const std::vector<Poly>& digits, const SwitchingKey& key, std::size_t limbs);
// One row of it, for loops that go on with the row while it is in the cache. The key has been checked.
void inner_product_row(const Chain& chain, const std::vector<Poly>& digits, const SwitchingKey& key, std::size_t limbs,
                       std::size_t row, uint64_t* b, uint64_t* a);
// Throws Error(kBackend) for a key that does not serve these digits.
void check_key(const std::vector<Poly>& digits, const SwitchingKey& key, std::size_t limbs);

// x, whose last `specials` rows are those of special primes, divided by them and by those of its primes that `to` does not
// have; and times the sprout prime of a composite-prime chain where that is in `to` and x does not have it.
Poly divide(const Chain& chain, const Poly& x, std::size_t specials, Rows to, Rounding rounding = Rounding::kRounded);
// Both halves.
Pair divide(const Chain& chain, const Pair& x, std::size_t specials, Rows to);
// By the special primes alone.
Poly divide(const Chain& chain, const Poly& x, std::size_t specials, Rounding rounding = Rounding::kRounded);

// A ciphertext part c of l limbs under s' becomes one under s.
Pair switch_key(const Chain& chain, const Poly& c, const SwitchingKey& key, Rounding rounding = Rounding::kRounded);

}  // namespace fheinfer::ckks
