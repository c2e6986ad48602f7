#include "ckks/key_generation.h"

#include "base/parallel.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

SecretPoly evaluate(const Chain& chain, std::span<const int64_t> x) {
    const std::size_t primes = chain.q_count() + chain.special_count();
    SecretPoly out(primes, chain.n());
    parallel_for(primes, [&](std::size_t i) {
        ring::lift(out[i], x.data(), chain.n(), chain.modulus(i));
        chain.ntt(i).forward(out[i]);
    });
    return out;
}

SmallPoly automorphism(std::span<const int64_t> x, uint64_t exponent) {
    const std::size_t n = x.size();
    SmallPoly out(n);
    for (std::size_t i = 0; i < n; ++i) {
        const std::size_t at = i * exponent % (2 * n);
        out[at % n]          = at < n ? x[i] : -x[i];
    }
    return out;
}

SwitchingKey switching_key(const Chain& chain, const Poly& from, const Poly& to, std::size_t limbs, std::size_t specials,
                           bool one_digit, const Seed& seed, const Noise& noise) {
    const std::size_t n = chain.n(), all = limbs + specials, digits = one_digit ? 1 : chain.digits(limbs);
    SwitchingKey key{limbs, specials, {}, {}};
    for (std::size_t j = 0; j < digits; ++j)
        key.b.emplace_back(all, n);
    reserve_uniform(chain, key);
    for (std::size_t j = 0; j < digits; ++j) {
        const auto error = noise();
        parallel_for(all, [&](std::size_t row) {
            const std::size_t prime = chain.prime(row, limbs);
            const auto& m           = chain.modulus(prime);
            uint64_t* b             = key.b[j][row];
            expand_row(chain, key, seed, j, row);
            SecretPoly product(1, n);  // of a public polynomial and the secret
            ring::lift(b, error.data(), n, m);
            chain.ntt(prime).forward(b);
            ring::multiply(product[0], key.a[j][row], to[prime], n, m);
            ring::subtract(b, b, product[0], n, m);
            if (row >= limbs || (!one_digit && chain.digit(row) != j))
                return;
            ring::multiply(product[0], from[prime], special_product(chain, specials, prime), n, m);
            ring::add(b, b, product[0], n, m);
        });
    }
    return key;
}

void reserve_uniform(const Chain& chain, SwitchingKey& key) {
    while (key.a.size() < key.b.size())
        key.a.emplace_back(key.limbs + key.specials, chain.n());
}

void expand_row(const Chain& chain, SwitchingKey& key, const Seed& seed, std::size_t digit, std::size_t row) {
    const std::size_t prime = chain.prime(row, key.limbs);
    uniform(key.a[digit][row], chain.n(), chain.modulus(prime), seed, static_cast<uint32_t>(digit), static_cast<uint32_t>(prime));
}

}  // namespace fheinfer::ckks
