// The primes of a parameter set with what every operation needs of them: transforms, digits, basis conversions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "ring/ntt.h"
#include "ring/poly.h"

namespace fheinfer::ckks {

struct Prime {
    uint64_t p   = 0;
    uint64_t psi = 0;  // primitive 2n-th root of unity
};

// Rows of a ciphertext's polynomials: the primes first .. first + limbs - 1.
struct Rows {
    std::size_t first = 0, limbs = 0;

    std::size_t end() const {
        return first + limbs;
    }
};

// From the residues of a product D of primes to another basis: x = sum_i y_i D/d_i - v D with
// y_i = [x (D/d_i)^-1] mod d_i. Approximate without the last term (ePrint 2018/931), centred and exact with
// v = round(sum_i y_i / d_i), which is taken in fixed point so that every instruction set has the same bits.
struct BasisConversion {
    std::vector<std::size_t> from;                // indices of primes in the chain
    std::vector<ring::Factor> inverse_factor;        // [(D/d_i)^-1] mod d_i
    std::vector<uint64_t> fraction;               // floor(2^(52 + bits) / d_i)
    int bits = 0;                                 // of the fixed-point fraction
    std::vector<std::vector<uint64_t>> factor;       // by target prime: D/d_i modulo it, and -D at the end
    std::vector<ring::Factor> inverse_product;    // by target prime: D^-1 modulo it; zero for the d_i themselves
};

// Primes 0 .. q_count-1 are those of Q, the rest the special primes. A polynomial of l limbs and k special primes has l
// rows of Q and then k special rows.
//
// A composite-prime chain has a prime for every two levels, p_1 p_2 ... about as large as the square of the scale, and prime
// 0 is the sprout prime r, about as large as the scale. An even level 2j has the primes q_0 p_1 ... p_j, an odd one r as
// well: rescaling divides by p_j / r from even to odd, and by r from odd to even. So half the limbs hold as many levels.
class Chain {
public:
    Chain(std::size_t n, const std::vector<Prime>& q, const std::vector<Prime>& special, int digits, bool composite = false);

    std::size_t n() const {
        return n_;
    }
    std::size_t q_count() const {
        return q_count_;
    }
    std::size_t special_count() const {
        return moduli_.size() - q_count_;
    }
    // 1 on a composite-prime chain, else 0: where q_0 is.
    std::size_t sprout_count() const {
        return sprout_count_;
    }
    Rows rows(int level) const;
    // Of the ciphertext that has this polynomial, without special rows.
    int level(const ring::Poly& x) const;
    // What rescaling from this level divides by.
    double divisor(int level) const;
    // Limbs of one digit of hybrid key switching; the sprout prime goes with the first.
    std::size_t per_digit() const {
        return per_digit_;
    }
    std::size_t digit(std::size_t prime) const {
        return prime < sprout_count_ ? 0 : (prime - sprout_count_) / per_digit_;
    }
    // Of primes 0 .. primes-1.
    std::size_t digits(std::size_t primes) const {
        return digit(primes - 1) + 1;
    }
    // Index of the prime of a row of a polynomial of `limbs` limbs of Q, the first that of prime `base`.
    std::size_t prime(std::size_t row, std::size_t limbs, std::size_t base = 0) const {
        return row < limbs ? base + row : q_count_ + row - limbs;
    }
    // Made at the first call: a client needs the primes of a few limbs, a plan none.
    const ring::Ntt& ntt(std::size_t prime) const;
    const ring::Modulus& modulus(std::size_t prime) const {
        return moduli_[prime];
    }
    // Transform of the subring of X^(n / size).
    const ring::Ntt& subring_ntt(std::size_t prime, std::size_t size) const;
    // The first half of that transform (ring::Ntt::first_half): all there is of a polynomial that is its own mirror image.
    const ring::Ntt& half_ntt(std::size_t prime, std::size_t size) const;
    // Special primes a key of that many limbs needs: as many as keep its noise below that of rescaling.
    std::size_t specials_for(std::size_t limbs) const;
    // Whether there are as many, for all limbs.
    bool covers_digits() const;
    // Made once, kept. `raised`: of the sprout prime r times what the residues say, divided by r again wherever it is not
    // modulo r itself, so that (x - converted) * inverse_product is r x / D rounded; modulo r that is -converted / D.
    const BasisConversion& conversion(const std::vector<std::size_t>& from, bool raised = false) const;

private:
    // In bits: of a digit of the first `limbs` primes, of the product of special primes.
    double widest_digit(std::size_t limbs) const;
    double special_bits(std::size_t specials) const;

    std::size_t n_, q_count_, sprout_count_, per_digit_;
    std::vector<ring::Modulus> moduli_;
    std::vector<uint64_t> roots_;
    struct Transform {
        std::once_flag made;
        std::unique_ptr<ring::Ntt> ntt;
    };
    mutable std::vector<Transform> transforms_;
    mutable std::mutex mutex_;
    mutable std::map<std::pair<std::size_t, std::size_t>, std::unique_ptr<ring::Ntt>> subrings_, halves_;
    mutable std::map<std::pair<std::vector<std::size_t>, bool>, std::unique_ptr<BasisConversion>> conversions_;
};

}  // namespace fheinfer::ckks
