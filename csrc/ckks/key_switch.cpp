#include "ckks/key_switch.h"

#include <algorithm>

#include "base/error.h"
#include "ring/accumulate.h"
#include "ring/convert.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

using namespace ring;

namespace {

std::vector<const uint64_t*> rows(const Poly& x, std::size_t first, std::size_t count) {
    std::vector<const uint64_t*> out(count);
    for (std::size_t i = 0; i < count; ++i)
        out[i] = x[first + i];
    return out;
}

// outs[k] = sum_t ys[t] * hat of primes[k], for all primes in one pass over the ys, which is shared out by coefficients.
void convert(const Chain& chain, const BasisConversion& conversion, const std::vector<const uint64_t*>& ys,
             const std::vector<uint64_t*>& outs, const std::vector<std::size_t>& primes) {
    const std::size_t n = chain.n(), part = std::min<std::size_t>(n, 4096);
    std::vector<const uint64_t*> hats;
    std::vector<const Modulus*> moduli;
    for (std::size_t prime : primes) {
        hats.push_back(conversion.hat[prime].data());
        moduli.push_back(&chain.modulus(prime));
    }
#pragma omp parallel for schedule(dynamic)
    for (std::size_t i = 0; i < n; i += part) {
        auto in  = ys;
        auto out = outs;
        for (auto& y : in)
            y += i;
        for (auto& o : out)
            o += i;
        linear_combinations(out.data(), out.size(), in.data(), hats.data(), in.size(), false, part, moduli.data());
    }
}

// x[row] leaves evaluation form and becomes y_i of a basis conversion.
void to_hat(const Chain& chain, uint64_t* out, const uint64_t* x, std::size_t prime, const Factor& inverse_hat) {
    std::memcpy(out, x, chain.n() * sizeof(uint64_t));
    chain.ntt(prime).inverse(out);
    multiply(out, out, inverse_hat, chain.n(), chain.modulus(prime));
}

}  // namespace

Factor special_product(const Chain& chain, std::size_t specials, std::size_t prime) {
    const auto& m = chain.modulus(prime);
    uint64_t p    = 1;
    for (std::size_t k = 0; k < specials; ++k)
        p = m.multiply(p, m.reduce(chain.modulus(chain.q_count() + k).p));
    return Factor(p, m);
}

std::vector<Poly> mod_up(const Chain& chain, const Poly& x, std::size_t specials) {
    const std::size_t n = chain.n(), limbs = x.limbs(), digits = chain.digits(limbs), size = chain.per_digit();
    Poly hats(limbs, n);
    std::vector<const BasisConversion*> conversions(digits);
    for (std::size_t j = 0; j < digits; ++j) {
        std::vector<std::size_t> from;
        for (std::size_t i = j * size; i < std::min(limbs, (j + 1) * size); ++i)
            from.push_back(i);
        conversions[j] = &chain.conversion(from);
    }
#pragma omp parallel for schedule(dynamic)
    for (std::size_t i = 0; i < limbs; ++i)
        to_hat(chain, hats[i], x[i], i, conversions[i / size]->inverse_hat[i % size]);

    std::vector<Poly> out;
    for (std::size_t j = 0; j < digits; ++j) {
        const std::size_t first = j * size, count = conversions[j]->from.size();
        auto& digit = out.emplace_back(limbs + specials, n);
        std::vector<uint64_t*> outs;
        std::vector<std::size_t> primes;
        for (std::size_t row = 0; row < limbs + specials; ++row)
            if (row < first || row >= first + count) {
                outs.push_back(digit[row]);
                primes.push_back(chain.prime(row, limbs));
            }
        convert(chain, *conversions[j], rows(hats, first, count), outs, primes);
    }
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (std::size_t j = 0; j < digits; ++j)
        for (std::size_t row = 0; row < limbs + specials; ++row) {
            if (row < limbs && row / size == j)
                std::memcpy(out[j][row], x[row], n * sizeof(uint64_t));
            else
                chain.ntt(chain.prime(row, limbs)).forward(out[j][row]);
        }
    return out;
}

void check_key(const std::vector<Poly>& digits, const SwitchingKey& key, std::size_t limbs) {
    if (limbs > key.limbs || digits.size() > key.b.size() || digits[0].limbs() != limbs + key.specials)
        throw Error(ErrorKind::kBackend, "a switching key of " + std::to_string(key.limbs) + " limbs for a ciphertext of " +
                                             std::to_string(limbs));
}

void inner_product_row(const Chain& chain, const std::vector<Poly>& digits, const SwitchingKey& key, std::size_t limbs,
                       std::size_t row, uint64_t* b, uint64_t* a) {
    const std::size_t at = row < limbs ? row : key.limbs + row - limbs;
    std::vector<const uint64_t*> xs, bs, as;
    for (std::size_t j = 0; j < digits.size(); ++j) {
        xs.push_back(digits[j][row]);
        bs.push_back(key.b[j][at]);
        as.push_back(key.a[j][at]);
    }
    const auto& m = chain.modulus(chain.prime(row, limbs));
    sum_of_products(b, xs.data(), bs.data(), xs.size(), 1, false, chain.n(), m);
    sum_of_products(a, xs.data(), as.data(), xs.size(), 1, false, chain.n(), m);
}

Pair inner_product(const Chain& chain, const std::vector<Poly>& digits, const SwitchingKey& key, std::size_t limbs) {
    check_key(digits, key, limbs);
    const std::size_t all = limbs + key.specials;
    Pair out{Poly(all, chain.n()), Poly(all, chain.n())};
#pragma omp parallel for schedule(dynamic)
    for (std::size_t row = 0; row < all; ++row)
        inner_product_row(chain, digits, key, limbs, row, out.b[row], out.a[row]);
    return out;
}

Poly divide(const Chain& chain, const Poly& x, std::size_t limbs, std::size_t specials, std::size_t drop, Rounding rounding) {
    const std::size_t n = chain.n(), left = limbs - drop;
    std::vector<std::size_t> from;
    for (std::size_t i = left; i < limbs; ++i)
        from.push_back(i);
    for (std::size_t i = 0; i < specials; ++i)
        from.push_back(chain.q_count() + i);
    if (from.empty())
        return x.first(limbs);
    const auto& conversion   = chain.conversion(from);
    const std::size_t count  = from.size();
    const bool single        = count == 1;  // the centred residue itself
    const std::size_t terms  = count + (rounding == Rounding::kRounded && !single ? 1 : 0);

    Poly hats(terms, n);
#pragma omp parallel for schedule(dynamic)
    for (std::size_t i = 0; i < count; ++i)
        to_hat(chain, hats[i], x[left + i], from[i], conversion.inverse_hat[i]);
    const auto ys = rows(hats, 0, terms);
    if (terms > count) {
        constexpr std::size_t kBlock = 1024;
        const std::size_t block = std::min(n, kBlock);
#pragma omp parallel for
        for (std::size_t i = 0; i < n; i += block) {
            std::vector<const uint64_t*> part(count);
            for (std::size_t t = 0; t < count; ++t)
                part[t] = ys[t] + i;
            rounded_quotient(hats[count] + i, part.data(), conversion.fraction.data(), count, conversion.bits, block);
        }
    }
    Poly out(left, n);
    const bool centred = single && rounding == Rounding::kRounded;
    if (!centred) {
        std::vector<uint64_t*> outs;
        std::vector<std::size_t> primes;
        for (std::size_t t = 0; t < left; ++t) {
            outs.push_back(out[t]);
            primes.push_back(t);
        }
        convert(chain, conversion, ys, outs, primes);
    }
#pragma omp parallel for schedule(dynamic)
    for (std::size_t t = 0; t < left; ++t) {
        const auto& m = chain.modulus(t);
        if (centred)
            switch_modulus(out[t], ys[0], n, chain.modulus(from[0]), m);
        chain.ntt(t).forward(out[t]);
        subtract_multiply(out[t], x[t], out[t], conversion.inverse_product[t], n, m);
    }
    return out;
}

Pair switch_key(const Chain& chain, const Poly& c, const SwitchingKey& key, Rounding rounding) {
    const auto product = inner_product(chain, mod_up(chain, c, key.specials), key, c.limbs());
    return {divide(chain, product.b, c.limbs(), key.specials, 0, rounding),
            divide(chain, product.a, c.limbs(), key.specials, 0, rounding)};
}

}  // namespace fheinfer::ckks
