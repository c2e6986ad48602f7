#include "ckks/linear_map.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/parallel.h"
#include "ckks/row_sums.h"
#include "ckks/schedule.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

using namespace ring;

namespace {

bool any_present(const LinearMap& map, std::size_t first, std::size_t terms) {
    const auto part = std::span(map.present).subspan(first, terms);
    return std::find(part.begin(), part.end(), 1) != part.end();
}

void add_to(const Chain& chain, Ciphertext& sum, Ciphertext term) {
    if (!sum.limbs()) {
        sum = std::move(term);
        return;
    }
    parallel_for(sum.limbs(), [&](std::size_t i) {
        const auto& m = chain.modulus(sum.c0.base() + i);
        ring::add(sum.c0[i], sum.c0[i], term.c0[i], chain.n(), m);
        ring::add(sum.c1[i], sum.c1[i], term.c1[i], chain.n(), m);
    });
}

// One evaluation of a map.
class Evaluation {
public:
    Evaluation(const Chain& chain, const Keys& keys, KeyPolicy policy, const LinearMap& map, const Target& target,
               const EncodedDiagonals* kept)
        : chain_(chain), keys_(keys), policy_(policy), map_(map), target_(target), kept_(kept) {}

    std::vector<Ciphertext> single(std::span<const Ciphertext* const> xs);
    std::vector<Ciphertext> twice(std::span<const Ciphertext* const> xs);

private:
    Ciphertext rotated(const Ciphertext& x, int k) const {
        return rotate(chain_, keys_, x, rotation_exponent(chain_.n(), k));
    }
    // Of one ciphertext, in the order of ks; made here and kept, but for rotation by nothing.
    std::vector<const Ciphertext*> rotations(const Ciphertext& x, const std::vector<int>& ks, bool stepwise);
    const Ciphertext* keep(Ciphertext x) {
        return &made_.emplace_back(std::move(x));
    }
    void baby_steps(const Ciphertext& x);
    MapSizes sizes() const;
    // The sum of a giant step, without rows while nothing is in it.
    struct Partial {
        Ciphertext value;
        bool started = false;
    };
    // Adds the products of some baby steps, terms `term` and on, to the sums of `lowest` (LinearMap::index without terms) and the
    // next; the last of them first.
    void add_products(std::span<const Ciphertext* const> steps, std::size_t term, std::size_t lowest, std::span<Partial> sums) const;
    std::vector<Partial> sums(std::span<const Ciphertext* const> xs, std::size_t start, std::size_t end);
    Ciphertext finished(Ciphertext y) const;

    const Chain& chain_;
    const Keys& keys_;
    KeyPolicy policy_;
    const LinearMap& map_;
    const Target& target_;
    const EncodedDiagonals* kept_;
    Schedule schedule_;
    std::deque<Ciphertext> made_;
    std::vector<const Ciphertext*> steps_;  // baby steps of schedule_.inputs inputs
};

std::vector<const Ciphertext*> Evaluation::rotations(const Ciphertext& x, const std::vector<int>& ks, bool stepwise) {
    std::vector<const Ciphertext*> out(ks.size());
    if (!stepwise) {
        std::vector<uint64_t> exponents;
        for (int k : ks)
            if (k != 0)
                exponents.push_back(rotation_exponent(chain_.n(), k));
        auto rotated     = rotate_many(chain_, keys_, x, exponents);
        std::size_t next = 0;
        for (std::size_t i = 0; i < ks.size(); ++i)
            out[i] = ks[i] == 0 ? &x : keep(std::move(rotated[next++]));
        return out;
    }
    // From the rotation nearest to none outwards, each made of the one before: a key for each direction.
    const auto step = [&](const Ciphertext& from, int k) { return k == 0 ? &from : keep(rotated(from, k)); };
    const auto nearest = std::min_element(ks.begin(), ks.end(), [](int a, int b) { return std::abs(a) < std::abs(b); });
    const auto start   = static_cast<std::size_t>(nearest - ks.begin());
    out[start]         = step(x, ks[start]);
    for (std::size_t i = start + 1; i < ks.size(); ++i)
        out[i] = step(*out[i - 1], ks[i] - ks[i - 1]);
    for (std::size_t i = start; i-- > 0;)
        out[i] = step(*out[i + 1], ks[i] - ks[i + 1]);
    return out;
}

void Evaluation::baby_steps(const Ciphertext& x) {
    const bool stepwise     = policy_ == KeyPolicy::kMinimal;
    const std::size_t start = steps_.size();
    steps_.resize(start + map_.baby_steps());
    const auto first = rotations(x, map_.first, stepwise);
    for (std::size_t f = 0; f < first.size(); ++f) {
        const auto second = rotations(*first[f], map_.second, stepwise);
        for (std::size_t s = 0; s < second.size(); ++s)
            steps_[start + s * first.size() + f] = second[s];
    }
}

// Sizes of this map's ciphertexts and of their key switching.
MapSizes Evaluation::sizes() const {
    const std::size_t primes = target_.rows.end();
    return {chain_.n(), target_.rows.limbs, chain_.specials_for(primes), chain_.digits(primes)};
}

void Evaluation::add_products(std::span<const Ciphertext* const> steps, std::size_t term, std::size_t lowest, std::span<Partial> sums) const {
    const std::size_t n = chain_.n(), limbs = target_.rows.limbs, count = sums.size(), stride = map_.terms();
    const Window window{lowest * stride + term, steps.size(), count, stride};
    std::vector<char> here(count);
    for (std::size_t g = 0; g < count; ++g) {
        here[g]   = any_present(map_, window.first + g * stride, window.terms);
        auto& sum = sums[count - 1 - g].value;
        if (here[g] && !sum.limbs())
            sum = {Poly(limbs, n, target_.rows.first), Poly(limbs, n, target_.rows.first), steps[0]->scale * target_.scale};
    }
    if (std::find(here.begin(), here.end(), 1) == here.end())
        return;
    std::optional<EncodedDiagonals> streamed;
    if (!kept_)
        streamed.emplace(chain_, map_, target_, Tier::kCoefficients, window);
    const auto& diagonals = kept_ ? *kept_ : *streamed;

    // As many sums together as leave every thread some tasks.
    std::size_t together = kGiants;
    while (together > 1 && limbs * ((count + together - 1) / together) < 4 * thread_count())
        together /= 2;
    const std::size_t groups = (count + together - 1) / together;
    parallel_for(
        limbs * groups, [&] { return RowSums(chain_, diagonals, map_.period, window.terms); },
        [&](std::size_t task, RowSums& form) {
            const std::size_t row = task / groups, start = task % groups * together;
            std::vector<Step> rows;
            for (const auto* step : steps)
                rows.push_back({step->c0[row], step->c1[row]});
            std::vector<Sum> to;
            for (std::size_t g = start; g < std::min(start + together, count); ++g) {
                auto& [sum, started] = sums[count - 1 - g];
                to.push_back(here[g] ? Sum{sum.c0[row], sum.c1[row], started} : Sum{});
            }
            form(window.first + start * stride, stride, row, chain_.modulus(target_.rows.first + row), rows, to);
        });
    for (std::size_t g = 0; g < count; ++g)
        sums[count - 1 - g].started |= here[g] != 0;
}

// Of positions start .. end - 1 in the order of the Horner sums (schedule.h).
std::vector<Evaluation::Partial> Evaluation::sums(std::span<const Ciphertext* const> xs, std::size_t start, std::size_t end) {
    const auto giants = static_cast<std::size_t>(map_.giant_steps());
    std::vector<Partial> out(end - start);
    for (int input = 0; input < map_.inputs; input += schedule_.inputs) {
        if (steps_.empty())
            for (int i = input; i < std::min(input + schedule_.inputs, map_.inputs); ++i)
                baby_steps(*xs[i]);
        const std::span<const Ciphertext* const> steps = steps_;
        for (std::size_t at = start, next = 0; at < end; at = next) {
            const std::size_t output = at / giants * giants;
            next                     = std::min({at + kChunk, end, output + giants});
            const std::size_t lowest = 2 * output + giants - next;  // positions go down the giant steps
            for (std::size_t t = 0; t < steps.size(); t += schedule_.terms)
                add_products(steps.subspan(t, std::min(schedule_.terms, steps.size() - t)), input * map_.baby_steps() + t, lowest,
                             std::span(out).subspan(at - start, next - at));
        }
        if (schedule_.inputs < map_.inputs) {
            steps_.clear();
            made_.clear();
        }
    }
    return out;
}

// Two nested Horner sums for each output, from the last giant step down.
std::vector<Ciphertext> Evaluation::single(std::span<const Ciphertext* const> xs) {
    const auto giants = static_cast<std::size_t>(map_.giant_steps()), all = giants * map_.outputs;
    schedule_         = schedule(map_, sizes(), kept_ != nullptr, working_limit());
    std::vector<Ciphertext> ys;
    Ciphertext y, block;
    for (std::size_t start = 0, end = 0; start < all; start = end) {
        end          = std::min(start + schedule_.sums, schedule_.sums < giants ? start / giants * giants + giants : all);
        auto partial = sums(xs, start, end);
        for (std::size_t at = start; at < end; ++at) {
            const std::size_t g = giants - 1 - at % giants;
            if (block.limbs())
                block = rotated(block, map_.row_stride);
            if (auto& sum = partial[at - start].value; sum.limbs())
                add_to(chain_, block, std::move(sum));
            if (g % map_.row_steps != 0)
                continue;
            if (y.limbs())
                y = rotated(y, map_.block_stride);
            if (block.limbs())
                add_to(chain_, y, std::move(block));
            block = {};
            if (g == 0)
                ys.push_back(finished(std::exchange(y, {})));
        }
    }
    return ys;
}

Ciphertext Evaluation::finished(Ciphertext y) const {
    if (map_.shift != 0)
        y = rotated(y, map_.shift);
    for (int k : map_.rotate_and_sum)
        add_to(chain_, y, rotated(y, k));
    return rescale(chain_, y);
}
// A rotation modulo QP.
struct QpStep {
    uint64_t exponent                        = 1;
    const SwitchingKey* key                  = nullptr;  // null for the input itself
    const std::vector<uint32_t>* permutation = nullptr;
};

// Row by row, so that what a row needs stays in the cache: all baby steps of the row, then all sums of a giant step.
std::vector<Ciphertext> Evaluation::twice(std::span<const Ciphertext* const> xs) {
    const std::size_t n = chain_.n(), limbs = target_.rows.limbs, base = target_.rows.first, specials = target_.specials;
    const std::size_t all = target_.all(), terms = map_.terms(), sums_of_one = static_cast<std::size_t>(map_.giant_steps());
    // By input and first rotation: the input rotated, and its digits.
    std::vector<const Ciphertext*> parts;
    std::vector<std::vector<Poly>> digits;
    for (const auto* x : xs)
        for (const auto* part : rotations(*x, map_.first, true)) {
            parts.push_back(part);
            digits.push_back(mod_up(chain_, part->c1, specials));
        }
    const auto step = [&](int k) {
        if (k == 0)
            return QpStep{};
        const uint64_t exponent = rotation_exponent(n, k);
        const auto& key         = keys_.automorphism(exponent, base + limbs);
        if (key.specials != specials)
            throw Error(ErrorKind::kBackend, "the keys of a linear map are of different heights");
        check_key(digits[0], key, limbs);
        return QpStep{exponent, &key, &permutation(chain_, exponent)};
    };
    std::vector<QpStep> second;
    for (int k : map_.second)
        second.push_back(step(k));

    std::optional<EncodedDiagonals> streamed;
    if (!kept_)
        streamed.emplace(chain_, map_, target_, Tier::kCoefficients, Window::all(map_));
    const auto& diagonals = kept_ ? *kept_ : *streamed;
    // Sums of P * (baby step) * diagonal for every giant step.
    std::vector<Pair> sums;
    for (std::size_t s = 0; s < map_.outputs * sums_of_one; ++s)
        sums.push_back({Poly(all, n, base), Poly(all, n, base)});
    struct Scratch {
        Poly steps;
        RowSums form;
    };
    parallel_for(
        all, [&] { return Scratch{Poly(2 * terms + 3, n), RowSums(chain_, diagonals, map_.period, terms)}; },
        [&](std::size_t row, Scratch& scratch) {
            auto& rows    = scratch.steps;
            const auto& m = chain_.modulus(chain_.prime(row, limbs, base));
            uint64_t *c0 = rows[2 * terms], *u0 = rows[2 * terms + 1], *u1 = rows[2 * terms + 2];
            const auto raised = [&](uint64_t* out, const Poly& c) {  // P * c has no residue modulo a special prime
                if (row < limbs)
                    ring::multiply(out, c[row], special_product(chain_, specials, base + row), n, m);
                else
                    std::memset(out, 0, n * sizeof(uint64_t));
            };
            std::vector<Step> steps(terms);
            for (std::size_t part = 0; part < parts.size(); ++part) {
                raised(c0, parts[part]->c0);
                for (std::size_t s = 0; s < second.size(); ++s) {
                    const std::size_t input = part / map_.first.size(), f = part % map_.first.size();
                    const std::size_t t     = input * map_.baby_steps() + s * map_.first.size() + f;
                    uint64_t *out0 = rows[2 * t], *out1 = rows[2 * t + 1];
                    steps[t] = {out0, out1};
                    if (!second[s].key) {
                        std::memcpy(out0, c0, n * sizeof(uint64_t));
                        raised(out1, parts[part]->c1);
                        continue;
                    }
                    inner_product_row(chain_, digits[part], *second[s].key, limbs, row, u0, u1);
                    ring::add(u0, u0, c0, n, m);
                    permute(out0, u0, *second[s].permutation);
                    permute(out1, u1, *second[s].permutation);
                }
            }
            std::vector<Sum> to;
            const std::size_t together = kept_ && kept_->encoded() ? sums.size() : kGiants;
            for (std::size_t start = 0; start < sums.size(); start += together) {
                to.clear();
                for (std::size_t s = start; s < std::min(start + together, sums.size()); ++s) {
                    to.push_back({sums[s].b[row], sums[s].a[row]});
                    if (!any_present(map_, s * terms, terms))
                        for (auto* c : {sums[s].b[row], sums[s].a[row]})
                            std::memset(c, 0, n * sizeof(uint64_t));
                }
                scratch.form(start * terms, terms, row, m, steps, to);
            }
        });
    const auto giant = map_.giant_steps() > 1 ? step(map_.row_stride) : QpStep{};
    digits.clear();
    made_.clear();

    std::vector<Ciphertext> ys;
    const int level = chain_.level(xs[0]->c0);
    const Rows to   = chain_.rows(level - 1);
    for (int j = 0; j < map_.outputs; ++j) {
        // Horner: rotate what there is, add the next sum.
        auto* of = &sums[j * sums_of_one];
        Pair sum = std::move(of[sums_of_one - 1]);
        for (std::size_t g = sums_of_one - 1; g-- > 0;) {
            const auto up = mod_up(chain_, divide(chain_, sum.a, specials), specials);
            Pair next     = std::move(of[g]);
            parallel_for(
                all, [&] { return Poly(3, n); },
                [&](std::size_t row, Poly& scratch) {
                    const auto& m = chain_.modulus(chain_.prime(row, limbs, base));
                    inner_product_row(chain_, up, *giant.key, limbs, row, scratch[0], scratch[1]);
                    ring::add(scratch[0], scratch[0], sum.b[row], n, m);
                    permute(scratch[2], scratch[0], *giant.permutation);
                    ring::add(next.b[row], next.b[row], scratch[2], n, m);
                    permute(scratch[2], scratch[1], *giant.permutation);
                    ring::add(next.a[row], next.a[row], scratch[2], n, m);
                });
            sum = std::move(next);
        }
        ys.push_back({divide(chain_, sum.b, specials, to), divide(chain_, sum.a, specials, to),
                      xs[0]->scale * target_.scale / chain_.divisor(level)});
    }
    return ys;
}

}  // namespace

std::vector<Ciphertext> apply(const Chain& chain, const Keys& keys, KeyPolicy policy, const LinearMap& map, const Target& target,
                              const EncodedDiagonals* kept, std::span<const Ciphertext* const> xs) {
    for (const auto* x : xs)
        if (x->limbs() != target.rows.limbs || x->c0.base() != target.rows.first)
            throw Error(ErrorKind::kBackend, "a linear map for " + std::to_string(target.rows.limbs) + " limbs, not " +
                                                 std::to_string(x->limbs()));
    Evaluation evaluation(chain, keys, policy, map, target, kept);
    return map.hoisting == Hoisting::kDouble ? evaluation.twice(xs) : evaluation.single(xs);
}

}  // namespace fheinfer::ckks
