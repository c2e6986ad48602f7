#include "ckks/key_switch.h"

#include <algorithm>

#include "base/error.h"
#include "ring/accumulate.h"
#include "ring/convert.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

using namespace ring;

namespace {

// One limb of scratch for every thread, kept.
uint64_t* scratch(std::size_t n) {
    thread_local Poly row;
    if (row.n() < n)
        row = Poly(1, n);
    return row[0];
}

std::vector<const uint64_t*> rows(const Poly& x, std::size_t first, std::size_t count) {
    std::vector<const uint64_t*> out(count);
    for (std::size_t i = 0; i < count; ++i)
        out[i] = x[first + i];
    return out;
}

// x[row] leaves evaluation form and becomes y_i of a basis conversion.
void to_hat(const Chain& chain, uint64_t* out, const uint64_t* x, std::size_t prime, const Factor& inverse_hat) {
    std::memcpy(out, x, chain.n() * sizeof(uint64_t));
    chain.ntt(prime).inverse(out);
    multiply(out, out, inverse_hat, chain.n(), chain.modulus(prime));
}

}  // namespace

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
    for (std::size_t j = 0; j < digits; ++j)
        out.emplace_back(limbs + specials, n);
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (std::size_t j = 0; j < digits; ++j) {
        for (std::size_t row = 0; row < limbs + specials; ++row) {
            const auto& conversion = *conversions[j];
            const std::size_t first = j * size, count = conversion.from.size();
            if (row >= first && row < first + count) {
                std::memcpy(out[j][row], x[row], n * sizeof(uint64_t));
                continue;
            }
            const std::size_t prime = chain.prime(row, limbs);
            linear_combination(out[j][row], rows(hats, first, count).data(), conversion.hat[prime].data(), count, false, n,
                               chain.modulus(prime));
            chain.ntt(prime).forward(out[j][row]);
        }
    }
    return out;
}

Pair inner_product(const Chain& chain, const std::vector<Poly>& digits, const SwitchingKey& key, std::size_t limbs) {
    if (limbs > key.limbs || digits.size() > key.b.size() || digits[0].limbs() != limbs + key.specials)
        throw Error(ErrorKind::kBackend, "a switching key of " + std::to_string(key.limbs) + " limbs for a ciphertext of " +
                                             std::to_string(limbs));
    const std::size_t n = chain.n(), all = limbs + key.specials;
    Pair out{Poly(all, n), Poly(all, n)};
#pragma omp parallel for schedule(dynamic)
    for (std::size_t row = 0; row < all; ++row) {
        const std::size_t at = row < limbs ? row : key.limbs + row - limbs;
        std::vector<const uint64_t*> xs, b, a;
        for (std::size_t j = 0; j < digits.size(); ++j) {
            xs.push_back(digits[j][row]);
            b.push_back(key.b[j][at]);
            a.push_back(key.a[j][at]);
        }
        const auto& m = chain.modulus(chain.prime(row, limbs));
        sum_of_products(out.b[row], xs.data(), b.data(), xs.size(), 1, false, n, m);
        sum_of_products(out.a[row], xs.data(), a.data(), xs.size(), 1, false, n, m);
    }
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
#pragma omp parallel for schedule(dynamic)
    for (std::size_t t = 0; t < left; ++t) {
        const auto& m  = chain.modulus(t);
        uint64_t* rest = scratch(n);
        if (single && rounding == Rounding::kRounded)
            switch_modulus(rest, ys[0], n, chain.modulus(from[0]), m);
        else
            linear_combination(rest, ys.data(), conversion.hat[t].data(), terms, false, n, m);
        chain.ntt(t).forward(rest);
        subtract_multiply(out[t], x[t], rest, conversion.inverse_product[t], n, m);
    }
    return out;
}

Pair switch_key(const Chain& chain, const Poly& c, const SwitchingKey& key, Rounding rounding) {
    const auto product = inner_product(chain, mod_up(chain, c, key.specials), key, c.limbs());
    return {divide(chain, product.b, c.limbs(), key.specials, 0, rounding),
            divide(chain, product.a, c.limbs(), key.specials, 0, rounding)};
}

}  // namespace fheinfer::ckks
