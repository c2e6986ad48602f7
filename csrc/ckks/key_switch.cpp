#include "ckks/key_switch.h"

#include <algorithm>

#include "base/error.h"
#include "base/parallel.h"
#include "ring/accumulate.h"
#include "ring/convert.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

using namespace ring;

namespace {

// Measured in docs/explanation/performance.md.
constexpr std::size_t kSmallRing = std::size_t{1} << 14, kFewThreads = 4;

std::vector<const uint64_t*> rows(const Poly& x, std::size_t first, std::size_t count) {
    std::vector<const uint64_t*> out(count);
    for (std::size_t i = 0; i < count; ++i)
        out[i] = x[first + i];
    return out;
}

// outs[k] = sum_t ys[t] * CRT factor of primes[k], for all primes in one pass over the ys.
class Conversion {
public:
    Conversion(const Chain& chain, const BasisConversion& conversion, std::vector<const uint64_t*> ys, std::vector<uint64_t*> outs,
               const std::vector<std::size_t>& primes)
        : ys_(std::move(ys)), outs_(std::move(outs)), part_(part(chain)) {
        for (std::size_t prime : primes) {
            factors_.push_back(conversion.factor[prime].data());
            moduli_.push_back(&chain.modulus(prime));
        }
    }
    // It is shared out by coefficients, in so many parts.
    static std::size_t parts(const Chain& chain) {
        return chain.n() / part(chain);
    }
    void operator()(std::size_t k) const {
        auto in  = ys_;
        auto out = outs_;
        for (auto& y : in)
            y += k * part_;
        for (auto& o : out)
            o += k * part_;
        linear_combinations(out.data(), out.size(), in.data(), factors_.data(), in.size(), false, part_, moduli_.data());
    }

private:
    static std::size_t part(const Chain& chain) {
        return std::min<std::size_t>(chain.n(), 4096);
    }
    std::vector<const uint64_t*> ys_, factors_;
    std::vector<uint64_t*> outs_;
    std::vector<const Modulus*> moduli_;
    std::size_t part_;
};

// x[row] leaves evaluation form and becomes y_i of a basis conversion.
void to_crt_factor(const Chain& chain, uint64_t* out, const uint64_t* x, std::size_t prime, const Factor& inverse_factor) {
    std::memcpy(out, x, chain.n() * sizeof(uint64_t));
    chain.ntt(prime).inverse(out);
    multiply(out, out, inverse_factor, chain.n(), chain.modulus(prime));
}

}  // namespace

bool runs_whole(const Chain& chain) {
    return chain.n() <= kSmallRing && thread_count() <= kFewThreads;
}

Factor special_product(const Chain& chain, std::size_t specials, std::size_t prime) {
    const auto& m = chain.modulus(prime);
    uint64_t p    = 1;
    for (std::size_t k = 0; k < specials; ++k)
        p = m.multiply(p, m.reduce(chain.modulus(chain.q_count() + k).p));
    return Factor(p, m);
}

std::vector<Poly> mod_up(const Chain& chain, const Poly& x, std::size_t specials) {
    const std::size_t n = chain.n(), limbs = x.limbs(), base = x.base(), digits = chain.digits(base + limbs);
    Poly factors(limbs, n);
    std::vector<const BasisConversion*> conversions(digits);
    for (std::size_t j = 0; j < digits; ++j) {
        std::vector<std::size_t> from;
        for (std::size_t prime = base; prime < base + limbs; ++prime)
            if (chain.digit(prime) == j)
                from.push_back(prime);
        conversions[j] = &chain.conversion(from);
    }
    std::vector<Poly> out;
    std::vector<Conversion> converted;
    for (std::size_t j = 0; j < digits; ++j) {
        const std::size_t first = conversions[j]->from[0] - base, count = conversions[j]->from.size();
        auto& digit = out.emplace_back(limbs + specials, n, base);
        std::vector<uint64_t*> outs;
        std::vector<std::size_t> primes;
        for (std::size_t row = 0; row < limbs + specials; ++row)
            if (row < first || row >= first + count) {
                outs.push_back(digit[row]);
                primes.push_back(chain.prime(row, limbs, base));
            }
        converted.emplace_back(chain, *conversions[j], rows(factors, first, count), std::move(outs), primes);
    }
    const std::size_t parts = Conversion::parts(chain), all = limbs + specials;
    const auto to_factor = [&](std::size_t i) {
        const auto& own = *conversions[chain.digit(base + i)];
        to_crt_factor(chain, factors[i], x[i], base + i, own.inverse_factor[base + i - own.from[0]]);
    };
    const auto convert  = [&](std::size_t i) { converted[i / parts](i % parts); };
    const auto evaluate = [&](std::size_t i) {
        const std::size_t j = i / all, row = i % all;
        if (row < limbs && chain.digit(base + row) == j)
            std::memcpy(out[j][row], x[row], n * sizeof(uint64_t));
        else
            chain.ntt(chain.prime(row, limbs, base)).forward(out[j][row]);
    };
    if (runs_whole(chain) && digits >= thread_count()) {
        parallel_for(digits, [&](std::size_t j) {
            for (std::size_t prime : conversions[j]->from)
                to_factor(prime - base);
            for (std::size_t k = 0; k < parts; ++k)
                convert(j * parts + k);
            for (std::size_t row = 0; row < all; ++row)
                evaluate(j * all + row);
        });
        return out;
    }
    parallel_for(limbs, to_factor);
    parallel_for(digits * parts, convert);
    parallel_for(digits * all, evaluate);
    return out;
}

void check_key(const std::vector<Poly>& digits, const SwitchingKey& key, std::size_t limbs) {
    if (digits[0].base() + limbs > key.limbs || digits.size() > key.b.size() || digits[0].limbs() != limbs + key.specials)
        throw Error(ErrorKind::kBackend, "a switching key of " + std::to_string(key.limbs) + " limbs for a ciphertext of " +
                                             std::to_string(limbs));
}

void inner_product_row(const Chain& chain, const std::vector<Poly>& digits, const SwitchingKey& key, std::size_t limbs,
                       std::size_t row, uint64_t* b, uint64_t* a) {
    const std::size_t base = digits[0].base(), at = row < limbs ? base + row : key.limbs + row - limbs;
    std::vector<const uint64_t*> xs, bs, as;
    for (std::size_t j = 0; j < digits.size(); ++j) {
        xs.push_back(digits[j][row]);
        bs.push_back(key.b[j][at]);
        as.push_back(key.a[j][at]);
    }
    const auto& m = chain.modulus(chain.prime(row, limbs, base));
    sum_of_products(b, xs.data(), bs.data(), xs.size(), 1, false, chain.n(), m);
    sum_of_products(a, xs.data(), as.data(), xs.size(), 1, false, chain.n(), m);
}

Pair inner_product(const Chain& chain, const std::vector<Poly>& digits, const SwitchingKey& key, std::size_t limbs) {
    check_key(digits, key, limbs);
    const std::size_t all = limbs + key.specials, base = digits[0].base();
    Pair out{Poly(all, chain.n(), base), Poly(all, chain.n(), base)};
    parallel_for(all, [&](std::size_t row) { inner_product_row(chain, digits, key, limbs, row, out.b[row], out.a[row]); });
    return out;
}

Poly divide(const Chain& chain, const Poly& x, std::size_t specials, Rows to, Rounding rounding) {
    const std::size_t n = chain.n(), limbs = x.limbs() - specials, base = x.base();
    const bool raised = to.first < base;
    std::vector<std::size_t> from, at;  // primes, and their rows in x
    for (std::size_t row = 0; row < x.limbs(); ++row) {
        const std::size_t prime = chain.prime(row, limbs, base);
        if (row < limbs && prime >= to.first && prime < to.end())
            continue;
        from.push_back(prime);
        at.push_back(row);
    }
    if (from.empty())
        return x.first(limbs);
    const auto& conversion   = chain.conversion(from, raised);
    const std::size_t count  = from.size();
    const bool single        = count == 1 && !raised;  // the centred residue itself
    const std::size_t terms  = count + (rounding == Rounding::kRounded && !single ? 1 : 0);

    Poly factors(terms, n);
    parallel_for(count, [&](std::size_t i) { to_crt_factor(chain, factors[i], x[at[i]], from[i], conversion.inverse_factor[i]); });
    const auto ys = rows(factors, 0, terms);
    if (terms > count) {
        constexpr std::size_t kBlock = 1024;
        const std::size_t block = std::min(n, kBlock);
        parallel_for(n / block, [&](std::size_t k) {
            std::vector<const uint64_t*> part(count);
            for (std::size_t t = 0; t < count; ++t)
                part[t] = ys[t] + k * block;
            rounded_quotient(factors[count] + k * block, part.data(), conversion.fraction.data(), count, conversion.bits, block);
        });
    }
    Poly out(to.limbs, n, to.first);
    const bool centred = single && rounding == Rounding::kRounded;
    if (!centred) {
        std::vector<uint64_t*> outs;
        std::vector<std::size_t> primes;
        for (std::size_t t = 0; t < to.limbs; ++t) {
            outs.push_back(out[t]);
            primes.push_back(to.first + t);
        }
        parallel_for(Conversion::parts(chain), Conversion(chain, conversion, ys, std::move(outs), primes));
    }
    parallel_for(to.limbs, [&](std::size_t t) {
        const std::size_t prime = to.first + t;
        const auto& m           = chain.modulus(prime);
        if (centred)
            switch_modulus(out[t], ys[0], n, chain.modulus(from[0]), m);
        chain.ntt(prime).forward(out[t]);
        if (prime < base)  // a multiple of r has no residue there but what the rounding leaves
            multiply(out[t], out[t], conversion.inverse_product[prime], n, m);
        else
            subtract_multiply(out[t], x.of(prime), out[t], conversion.inverse_product[prime], n, m);
    });
    return out;
}

Poly divide(const Chain& chain, const Poly& x, std::size_t specials, Rounding rounding) {
    return divide(chain, x, specials, Rows{x.base(), x.limbs() - specials}, rounding);
}

Pair divide(const Chain& chain, const Pair& x, std::size_t specials, Rows to) {
    Pair out;
    in_halves(chain, [&](std::size_t i) { (i ? out.a : out.b) = divide(chain, i ? x.a : x.b, specials, to); });
    return out;
}

Pair switch_key(const Chain& chain, const Poly& c, const SwitchingKey& key, Rounding rounding) {
    const auto product = inner_product(chain, mod_up(chain, c, key.specials), key, c.limbs());
    return {divide(chain, product.b, key.specials, rounding), divide(chain, product.a, key.specials, rounding)};
}

}  // namespace fheinfer::ckks
