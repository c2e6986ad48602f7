#include "ckks/chain.h"

#include <bit>
#include <cmath>

#include "base/error.h"

namespace fheinfer::ckks {

using namespace ring;

namespace {

// Key switching adds noise of about sqrt(n) * sigma * digits * D / P in units of the last bit, rescaling one of
// sqrt(n): P larger than D by this many bits makes the first the smaller.
constexpr double kSpecialMarginBits = 6;

}  // namespace

Chain::Chain(std::size_t n, const std::vector<Prime>& q, const std::vector<Prime>& special, int digits, bool composite)
    : n_(n), q_count_(q.size()), sprout_count_(composite ? 1 : 0), per_digit_((q.size() - sprout_count_ + digits - 1) / digits),
      transforms_(q.size() + special.size()) {
    for (const auto* primes : {&q, &special})
        for (const auto& prime : *primes) {
            moduli_.emplace_back(prime.p);
            roots_.push_back(prime.psi);
        }
}

Rows Chain::rows(int level) const {
    const auto l = static_cast<std::size_t>(level);
    if (!sprout_count_)
        return {0, l + 1};
    return l % 2 == 0 ? Rows{sprout_count_, l / 2 + 1} : Rows{0, l / 2 + 2};
}

int Chain::level(const Poly& x) const {
    const int limbs = static_cast<int>(x.limbs());
    if (!sprout_count_)
        return limbs - 1;
    return x.base() == sprout_count_ ? 2 * (limbs - 1) : 2 * (limbs - 2) + 1;
}

double Chain::divisor(int level) const {
    const double last = static_cast<double>(modulus(rows(level).end() - 1).p), sprout = static_cast<double>(modulus(0).p);
    if (!sprout_count_)
        return last;
    return level % 2 == 0 ? last / sprout : sprout;
}

const Ntt& Chain::ntt(std::size_t prime) const {
    auto& transform = transforms_[prime];
    std::call_once(transform.made, [&] { transform.ntt = std::make_unique<Ntt>(n_, moduli_[prime], roots_[prime]); });
    return *transform.ntt;
}

const Ntt& Chain::subring_ntt(std::size_t prime, std::size_t size) const {
    if (size == n_)
        return ntt(prime);
    const std::lock_guard lock(mutex_);
    auto& made = subrings_[{prime, size}];
    if (!made)
        made = std::make_unique<Ntt>(size, modulus(prime), modulus(prime).power(roots_[prime], n_ / size));
    return *made;
}

const Ntt& Chain::half_ntt(std::size_t prime, std::size_t size) const {
    const Ntt& whole = subring_ntt(prime, size);
    const std::lock_guard lock(mutex_);
    auto& made = halves_[{prime, size}];
    if (!made)
        made = std::make_unique<Ntt>(Ntt::first_half(whole));
    return *made;
}

double Chain::widest_digit(std::size_t limbs) const {
    double digit = 0, widest = 0;
    for (std::size_t i = 0; i < limbs; ++i) {
        digit = (i == 0 || this->digit(i) == this->digit(i - 1) ? digit : 0) + std::log2(static_cast<double>(modulus(i).p));
        widest = std::max(widest, digit);
    }
    return widest;
}

double Chain::special_bits(std::size_t specials) const {
    double bits = 0;
    for (std::size_t k = 0; k < specials; ++k)
        bits += std::log2(static_cast<double>(modulus(q_count_ + k).p));
    return bits;
}

std::size_t Chain::specials_for(std::size_t limbs) const {
    const double wanted = widest_digit(limbs) + kSpecialMarginBits;
    for (std::size_t k = 1; k < special_count(); ++k)
        if (special_bits(k) >= wanted)
            return k;
    return special_count();
}

bool Chain::covers_digits() const {
    return special_bits(special_count()) >= widest_digit(q_count_) + kSpecialMarginBits;
}

const BasisConversion& Chain::conversion(const std::vector<std::size_t>& from, bool raised) const {
    const std::lock_guard lock(mutex_);
    auto& made = conversions_[{from, raised}];
    if (made)
        return *made;
    made       = std::make_unique<BasisConversion>();
    made->from = from;
    const auto product_but = [&](std::size_t skip, const Modulus& m) {
        uint64_t product = 1;
        for (std::size_t i : from)
            if (i != skip)
                product = m.multiply(product, m.reduce(modulus(i).p));
        return product;
    };
    made->bits = 63;
    for (std::size_t i : from)
        made->bits = std::min(made->bits, static_cast<int>(std::bit_width(modulus(i).p)) - 1);
    for (std::size_t i : from) {
        const auto& m = modulus(i);
        const uint64_t inverse = m.inverse(product_but(i, m));
        made->inverse_factor.emplace_back(raised ? m.multiply(inverse, m.reduce(modulus(0).p)) : inverse, m);
        made->fraction.push_back(static_cast<uint64_t>((uint128{1} << (52 + made->bits)) / m.p));
    }
    for (std::size_t t = 0; t < moduli_.size(); ++t) {
        const auto& m = modulus(t);
        auto& row     = made->factor.emplace_back();
        for (std::size_t i : from)
            row.push_back(product_but(i, m));
        const uint64_t product = product_but(moduli_.size(), m);
        row.push_back(m.subtract(0, product));
        uint64_t inverse = product ? m.inverse(product) : 0;
        if (raised && t == 0) {
            inverse = m.subtract(0, inverse);
        } else if (raised && product) {
            const uint64_t sprout = m.reduce(modulus(0).p), inverse_sprout = m.inverse(sprout);
            inverse               = m.multiply(inverse, sprout);
            for (auto& factor : row)
                factor = m.multiply(factor, inverse_sprout);
        }
        made->inverse_product.emplace_back(inverse, m);
    }
    return *made;
}

}  // namespace fheinfer::ckks
