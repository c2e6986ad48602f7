#include "ckks/transform.h"

#include <algorithm>
#include <cmath>
#include <exception>

#include "base/error.h"
#include "ring/accumulate.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

using namespace ring;

namespace {

// With fewer keys: measured in docs/performance.md.
constexpr int kMinimalHoisted = 2;

}  // namespace

Steps Steps::fit(int lowest, int highest, int stride, KeyPolicy keys) {
    const int count = highest - lowest + 1;
    int baby        = 1;
    while (baby * baby < count)
        baby *= 2;
    const int hoisted = keys == KeyPolicy::kMinimal ? std::min(kMinimalHoisted, baby) : baby;
    return {lowest, hoisted, baby, (count + baby - 1) / baby, stride};
}

std::vector<int> Steps::rotations() const {
    std::vector<int> out;
    for (int b = 0; b < hoisted; ++b)
        if (first + b != 0)
            out.push_back((first + b) * stride);
    if (hoisted < baby)
        out.push_back(hoisted * stride);
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

// Row by row, so that what a row needs stays in the cache: all baby steps of the row, then all sums of a giant step.
Ciphertext Transform::apply(const Chain& chain, const Keys& keys, const Ciphertext& x) const {
    if (x.limbs() != limbs_)
        throw Error(ErrorKind::kBackend, "a transform for " + std::to_string(limbs_) + " limbs, not " + std::to_string(x.limbs()));
    const std::size_t n = chain.n(), all = limbs_ + specials_, baby = steps_.baby;
    // By part of the baby steps: the input rotated, and its digits.
    std::vector<Ciphertext> rotated;
    std::vector<std::vector<Poly>> digits;
    digits.push_back(mod_up(chain, x.c1, specials_));
    struct Step {
        uint64_t exponent;
        const SwitchingKey* key;  // null for the input itself
        const std::vector<uint32_t>* permutation;
    };
    const auto step = [&](int k) {
        const uint64_t exponent = rotation_exponent(n, k);
        if (k == 0)
            return Step{exponent, nullptr, nullptr};
        const auto& key = keys.automorphism(exponent, limbs_);
        if (key.specials != specials_)
            throw Error(ErrorKind::kBackend, "the keys of a transform are of different heights");
        check_key(digits[0], key, limbs_);
        return Step{exponent, &key, &permutation(chain, exponent)};
    };
    std::vector<Step> babies;
    for (int b = 0; b < steps_.hoisted; ++b)
        babies.push_back(step((steps_.first + b) * steps_.stride));
    for (std::size_t part = 1; part < baby / babies.size(); ++part) {
        const auto next = step(steps_.hoisted * steps_.stride);
        rotated.push_back(rotate(chain, part == 1 ? x : rotated.back(), digits.back(), *next.key, next.exponent));
        digits.push_back(mod_up(chain, rotated.back().c1, specials_));
    }

    // Sums of P * (baby step) * diagonal for every giant step.
    std::vector<Pair> sums;
    for (int g = 0; g < steps_.giant; ++g)
        sums.push_back({Poly(all, n), Poly(all, n)});
#pragma omp parallel
    {
        Poly scratch(2 * baby + 3, n);
        uint64_t *c0 = scratch[2 * baby], *u0 = scratch[2 * baby + 1], *u1 = scratch[2 * baby + 2];
#pragma omp for schedule(dynamic)
        for (std::size_t row = 0; row < all; ++row) {
            const auto& m = chain.modulus(chain.prime(row, limbs_));
            const auto raised = [&](uint64_t* out, const Poly& c) {  // P * c has no residue modulo a special prime
                if (row < limbs_)
                    multiply(out, c[row], special_product(chain, specials_, row), n, m);
                else
                    std::memset(out, 0, n * sizeof(uint64_t));
            };
            for (std::size_t b = 0; b < baby; ++b) {
                const std::size_t part = b / babies.size();
                const auto& in         = part == 0 ? x : rotated[part - 1];
                const auto& baby_step  = babies[b % babies.size()];
                uint64_t *out0 = scratch[2 * b], *out1 = scratch[2 * b + 1];
                if (b % babies.size() == 0)
                    raised(c0, in.c0);
                if (!baby_step.key) {
                    std::memcpy(out0, c0, n * sizeof(uint64_t));
                    raised(out1, in.c1);
                    continue;
                }
                inner_product_row(chain, digits[part], *baby_step.key, limbs_, row, u0, u1);
                ring::add(u0, u0, c0, n, m);
                permute(out0, u0, *baby_step.permutation);
                permute(out1, u1, *baby_step.permutation);
            }
            constexpr std::size_t kPart = 2048;  // of all baby steps fits the second cache
            const std::size_t part      = std::min(n, kPart);
            std::vector<const uint64_t*> xs0, xs1, plain;
            for (std::size_t i = 0; i < n; i += part)
                for (int g = 0; g < steps_.giant; ++g) {
                    xs0.clear(), xs1.clear(), plain.clear();
                    for (std::size_t b = 0; b < baby; ++b)
                        if (const auto& p = plain_[g * baby + b]; p.limbs()) {
                            xs0.push_back(scratch[2 * b] + i);
                            xs1.push_back(scratch[2 * b + 1] + i);
                            plain.push_back(p[row] + i / repeat_);
                        }
                    sum_of_products(sums[g].b[row] + i, xs0.data(), plain.data(), plain.size(), repeat_, false, part, m);
                    sum_of_products(sums[g].a[row] + i, xs1.data(), plain.data(), plain.size(), repeat_, false, part, m);
                }
        }
    }

    const auto giant = steps_.giant > 1 ? step(steps_.baby * steps_.stride) : Step{};
    digits.clear();
    rotated.clear();

    // Horner: rotate what there is, add the next sum.
    Pair sum = std::move(sums.back());
    sums.pop_back();
    for (; !sums.empty(); sums.pop_back()) {
        const auto up = mod_up(chain, divide(chain, sum.a, specials_), specials_);
        Pair next{Poly(all, n), Poly(all, n)};
#pragma omp parallel
        {
            Poly scratch(2, n);
#pragma omp for schedule(dynamic)
            for (std::size_t row = 0; row < all; ++row) {
                const auto& m = chain.modulus(chain.prime(row, limbs_));
                inner_product_row(chain, up, *giant.key, limbs_, row, scratch[0], scratch[1]);
                ring::add(scratch[0], scratch[0], sum.b[row], n, m);
                permute(next.b[row], scratch[0], *giant.permutation);
                permute(next.a[row], scratch[1], *giant.permutation);
                ring::add(next.b[row], next.b[row], sums.back().b[row], n, m);
                ring::add(next.a[row], next.a[row], sums.back().a[row], n, m);
            }
        }
        sum = std::move(next);
    }
    const Rows to{0, limbs_ - 1};
    return {divide(chain, sum.b, specials_, to), divide(chain, sum.a, specials_, to),
            x.scale * scale_ / static_cast<double>(chain.modulus(limbs_ - 1).p)};
}

}  // namespace fheinfer::ckks
