#include "ckks/transform.h"

#include <cmath>
#include <exception>

#include "base/error.h"
#include "ring/accumulate.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

using namespace ring;

Steps Steps::fit(int lowest, int highest, int stride) {
    const int count = highest - lowest + 1;
    int baby        = 1;
    while (baby * baby < count)
        baby *= 2;
    return {lowest, baby, (count + baby - 1) / baby, stride};
}

std::vector<int> Steps::rotations() const {
    std::vector<int> out;
    for (int b = 0; b < baby; ++b)
        if (first + b != 0)
            out.push_back((first + b) * stride);
    if (giant > 1)
        out.push_back(baby * stride);
    return out;
}

Transform::Transform(const Chain& chain, const Diagonals& diagonals, const Steps& steps, std::size_t limbs,
                     std::size_t specials, double scale)
    : steps_(steps), limbs_(limbs), specials_(specials), scale_(scale) {
    const std::size_t slots = diagonals.begin()->second.size();
    repeat_                 = chain.n() / (2 * slots);
    plain_.resize(static_cast<std::size_t>(steps.baby) * steps.giant);
    std::exception_ptr failure;
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int g = 0; g < steps_.giant; ++g)
        for (int b = 0; b < steps_.baby; ++b) {
            const auto found = diagonals.find((steps_.first + b + g * steps_.baby) * steps_.stride);
            if (found == diagonals.end())
                continue;
            try {
                // The giant step rotates the product by this much afterwards.
                const std::size_t giant = static_cast<std::size_t>(g) * steps_.baby * steps_.stride;
                std::vector<Complex> values(slots);
                for (std::size_t i = 0; i < slots; ++i)
                    values[(i + giant) % slots] = found->second[i];
                plain_[static_cast<std::size_t>(g) * steps_.baby + b] = transform(chain, encode(values, scale), limbs_, specials_);
            }
            catch (...) {
#pragma omp critical
                failure = std::current_exception();
            }
        }
    if (failure)
        std::rethrow_exception(failure);
}

std::size_t Transform::bytes() const {
    std::size_t total = 0;
    for (const auto& p : plain_)
        total += p.limbs() * p.n() * sizeof(uint64_t);
    return total;
}

Ciphertext Transform::apply(const Chain& chain, const Keys& keys, const Ciphertext& x) const {
    if (x.limbs() != limbs_)
        throw Error(ErrorKind::kBackend, "a transform for " + std::to_string(limbs_) + " limbs, not " + std::to_string(x.limbs()));
    const std::size_t n = chain.n(), all = limbs_ + specials_;
    const auto key_for  = [&](uint64_t exponent) -> const SwitchingKey& {
        const auto& key = keys.automorphism(exponent, limbs_);
        if (key.specials != specials_)
            throw Error(ErrorKind::kBackend, "the keys of a transform are of different heights");
        return key;
    };
    // P * c0 and P * c1: they have no residues modulo the special primes.
    const auto raised = [&](const Poly& c) {
        Poly out(all, n);
#pragma omp parallel for
        for (std::size_t row = 0; row < all; ++row) {
            if (row >= limbs_) {
                std::memset(out[row], 0, n * sizeof(uint64_t));
                continue;
            }
            const auto& m = chain.modulus(row);
            uint64_t p    = 1;
            for (std::size_t k = 0; k < specials_; ++k)
                p = m.multiply(p, m.reduce(chain.modulus(chain.q_count() + k).p));
            multiply(out[row], c[row], Factor(p, m), n, m);
        }
        return out;
    };
    const auto permuted = [&](const Poly& c, uint64_t exponent) {
        const auto& order = permutation(chain, exponent);
        Poly out(all, n);
#pragma omp parallel for
        for (std::size_t row = 0; row < all; ++row)
            permute(out[row], c[row], order);
        return out;
    };
    const auto add_to = [&](Poly& sum, const Poly& term) {
#pragma omp parallel for
        for (std::size_t row = 0; row < all; ++row)
            ring::add(sum[row], sum[row], term[row], n, chain.modulus(chain.prime(row, limbs_)));
    };

    std::vector<Pair> babies;
    {
        const auto digits = mod_up(chain, x.c1, specials_);
        const Poly c0     = raised(x.c0);
        for (int b = 0; b < steps_.baby; ++b) {
            const int k = (steps_.first + b) * steps_.stride;
            if (k == 0) {
                babies.push_back({c0.first(all), raised(x.c1)});
                continue;
            }
            const uint64_t exponent = rotation_exponent(n, k);
            auto product            = inner_product(chain, digits, key_for(exponent), limbs_);
            add_to(product.b, c0);
            babies.push_back({permuted(product.b, exponent), permuted(product.a, exponent)});
        }
    }

    Pair sum{Poly(all, n), Poly(all, n)};
    bool started = false;
    for (int g = steps_.giant - 1; g >= 0; --g) {
        if (started) {
            const uint64_t exponent = rotation_exponent(n, steps_.baby * steps_.stride);
            const auto digits       = mod_up(chain, divide(chain, sum.a, limbs_, specials_, 0), specials_);
            auto product            = inner_product(chain, digits, key_for(exponent), limbs_);
            add_to(product.b, sum.b);
            sum = {permuted(product.b, exponent), permuted(product.a, exponent)};
        }
        std::vector<int> present;
        for (int b = 0; b < steps_.baby; ++b)
            if (plain_[static_cast<std::size_t>(g) * steps_.baby + b].limbs())
                present.push_back(b);
        if (present.empty())
            continue;
#pragma omp parallel for schedule(dynamic)
        for (std::size_t row = 0; row < all; ++row) {
            std::vector<const uint64_t*> c0, c1, plain;
            for (int b : present) {
                c0.push_back(babies[b].b[row]);
                c1.push_back(babies[b].a[row]);
                plain.push_back(plain_[static_cast<std::size_t>(g) * steps_.baby + b][row]);
            }
            const auto& m = chain.modulus(chain.prime(row, limbs_));
            sum_of_products(sum.b[row], c0.data(), plain.data(), c0.size(), repeat_, started, n, m);
            sum_of_products(sum.a[row], c1.data(), plain.data(), c1.size(), repeat_, started, n, m);
        }
        started = true;
    }
    return {divide(chain, sum.b, limbs_, specials_, 1), divide(chain, sum.a, limbs_, specials_, 1),
            x.scale * scale_ / static_cast<double>(chain.modulus(limbs_ - 1).p)};
}

}  // namespace fheinfer::ckks
