#include "ckks/linear_map.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>

#include "base/error.h"
#include "base/parallel.h"
#include "ring/accumulate.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

using namespace ring;

namespace {

// What is formed at once; measured in docs/performance.md.
constexpr std::size_t kGiants    = 4;                     // sums that share the baby steps while these are in the cache
constexpr std::size_t kChunk     = 8;                     // giant steps whose coefficients are in memory at once
constexpr std::size_t kTileBytes = std::size_t{1} << 20;  // of diagonals in evaluation form
constexpr std::size_t kPart      = 2048;                  // residues that are summed at once

// One row of a baby step, or of a sum: null where a sum has no diagonal.
struct Step {
    const uint64_t *c0, *c1;
};
struct Sum {
    uint64_t *c0 = nullptr, *c1 = nullptr;
};

// Forms one row of several sums over the same baby steps, a tile of diagonals in evaluation form at a time. One for each
// thread.
class RowSums {
public:
    RowSums(const Chain& chain, const LinearMap& map, const EncodedDiagonals& diagonals)
        : chain_(chain), diagonals_(diagonals), terms_(map.terms()), size_(2 * std::max<std::size_t>(map.period, 8)) {
        tile_terms_ = std::min(terms_, kMaxTerms);
        if (diagonals.encoded())
            return;
        tile_terms_ = std::clamp<std::size_t>(kTileBytes / (kGiants * diagonals.typical_values() * sizeof(uint64_t)), 1, tile_terms_);
        tile_       = Poly(kGiants * tile_terms_, size_);
    }

    // sums[g] = sum_t steps[t] * diagonal `first + g * terms + t`, of row `row` of the target.
    void operator()(std::size_t first, std::size_t row, const Modulus& m, std::span<const Step> steps, std::span<const Sum> sums) {
        for (std::size_t start = 0; start < terms_; start += tile_terms_) {
            const std::size_t end = std::min(start + tile_terms_, terms_);
            products_.resize(sums.size());
            for (std::size_t g = 0; g < sums.size(); ++g)
                gather(products_[g], first + g * terms_, row, steps, start, end, g * tile_terms_);
            const std::size_t n = chain_.n(), part = std::min(n / 2, kPart);
            for (std::size_t i = 0; i < n; i += part)
                for (std::size_t g = 0; g < sums.size(); ++g)
                    add(sums[g], products_[g], i, part, m);
            for (auto& p : products_)
                p.started |= !p.whole.ys.empty() || !p.mirrored.ys.empty();
        }
        products_.clear();
    }

private:
    // Factors of products, where they begin.
    struct Factors {
        std::vector<Step> steps;
        std::vector<const uint64_t*> ys;
    };
    struct Products {
        Factors whole, mirrored;
        bool started = false;  // earlier tiles are in the sum
    };

    void gather(Products& p, std::size_t index, std::size_t row, std::span<const Step> steps, std::size_t start, std::size_t end,
                std::size_t place) {
        for (auto* f : {&p.whole, &p.mirrored}) {
            f->steps.clear();
            f->ys.clear();
        }
        for (std::size_t t = start; t < end; ++t) {
            if (!diagonals_.present(index + t))
                continue;
            auto& f = diagonals_.mirrored(index + t) ? p.mirrored : p.whole;
            f.steps.push_back(steps[t]);
            f.ys.push_back(diagonals_.row(chain_, index + t, row, tile_.limbs() ? tile_[place + t - start] : nullptr));
        }
    }

    // The residues i .. i + part - 1, which are in one half of the row.
    void add(const Sum& sum, const Products& p, std::size_t i, std::size_t part, const Modulus& m) {
        const std::size_t repeat = chain_.n() / size_;
        const bool second_half   = i >= chain_.n() / 2;
        bool started             = p.started;
        for (const auto* f : {&p.whole, &p.mirrored}) {
            if (f->ys.empty())
                continue;
            const bool backwards = second_half && f == &p.mirrored;
            x0_.clear(), x1_.clear(), ys_.clear();
            for (std::size_t t = 0; t < f->ys.size(); ++t) {
                x0_.push_back(f->steps[t].c0 + i);
                x1_.push_back(f->steps[t].c1 + i);
                ys_.push_back(f->ys[t] + (backwards ? size_ - i / repeat : i / repeat));
            }
            const auto sum_up = backwards ? sum_of_mirrored_products : sum_of_products;
            sum_up(sum.c0 + i, x0_.data(), ys_.data(), ys_.size(), repeat, started, part, m);
            sum_up(sum.c1 + i, x1_.data(), ys_.data(), ys_.size(), repeat, started, part, m);
            started = true;
        }
    }

    const Chain& chain_;
    const EncodedDiagonals& diagonals_;
    std::size_t terms_, size_, tile_terms_;
    Poly tile_;
    std::vector<Products> products_;
    std::vector<const uint64_t*> x0_, x1_, ys_;
};

bool any_present(const LinearMap& map, std::size_t first) {
    const auto sum = map.present.begin() + static_cast<std::ptrdiff_t>(first);
    return std::find(sum, sum + static_cast<std::ptrdiff_t>(map.terms()), 1) != sum + static_cast<std::ptrdiff_t>(map.terms());
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

    std::vector<Ciphertext> single(std::span<const Ciphertext* const> xs) {
        std::vector<const Ciphertext*> steps;
        for (const auto* x : xs)
            baby_steps(*x, steps);
        std::vector<Ciphertext> ys;
        for (int j = 0; j < map_.outputs; ++j)
            ys.push_back(rescale(chain_, output(steps, j)));
        return ys;
    }

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
    void baby_steps(const Ciphertext& x, std::vector<const Ciphertext*>& out);
    Ciphertext output(const std::vector<const Ciphertext*>& steps, int j) const;
    std::vector<Ciphertext> sums(const std::vector<const Ciphertext*>& steps, int j, int lowest, int count) const;

    const Chain& chain_;
    const Keys& keys_;
    KeyPolicy policy_;
    const LinearMap& map_;
    const Target& target_;
    const EncodedDiagonals* kept_;
    std::deque<Ciphertext> made_;
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

void Evaluation::baby_steps(const Ciphertext& x, std::vector<const Ciphertext*>& out) {
    const bool stepwise     = policy_ == KeyPolicy::kMinimal;
    const std::size_t start = out.size();
    out.resize(start + map_.baby_steps());
    const auto first = rotations(x, map_.first, stepwise);
    for (std::size_t f = 0; f < first.size(); ++f) {
        const auto second = rotations(*first[f], map_.second, stepwise);
        for (std::size_t s = 0; s < second.size(); ++s)
            out[start + s * first.size() + f] = second[s];
    }
}

// The sums of giant steps lowest .. lowest + count - 1 of output j, without rows where there is nothing to add up.
std::vector<Ciphertext> Evaluation::sums(const std::vector<const Ciphertext*>& steps, int j, int lowest, int count) const {
    const std::size_t first = map_.index(j, lowest, 0, 0), terms = map_.terms(), n = chain_.n(), limbs = target_.rows.limbs;
    std::optional<EncodedDiagonals> streamed;
    if (!kept_)
        streamed.emplace(chain_, map_, target_, Tier::kCoefficients, first, count * terms);
    const auto& diagonals = kept_ ? *kept_ : *streamed;

    std::vector<Ciphertext> out(count);
    for (int g = 0; g < count; ++g)
        if (any_present(map_, first + g * terms))
            out[g] = {Poly(limbs, n, target_.rows.first), Poly(limbs, n, target_.rows.first), steps[0]->scale * target_.scale};
    const std::size_t groups = (count + kGiants - 1) / kGiants;
    parallel_for(
        limbs * groups, [&] { return RowSums(chain_, map_, diagonals); },
        [&](std::size_t task, RowSums& form) {
            const std::size_t row = task / groups, start = task % groups * kGiants;
            std::vector<Step> rows;
            for (const auto* step : steps)
                rows.push_back({step->c0[row], step->c1[row]});
            std::vector<Sum> to;
            for (std::size_t g = start; g < std::min<std::size_t>(start + kGiants, count); ++g)
                to.push_back(out[g].limbs() ? Sum{out[g].c0[row], out[g].c1[row]} : Sum{});
            form(first + start * terms, row, chain_.modulus(target_.rows.first + row), rows, to);
        });
    return out;
}

// Two nested Horner sums, from the last giant step down.
Ciphertext Evaluation::output(const std::vector<const Ciphertext*>& steps, int j) const {
    Ciphertext y, block;
    std::vector<Ciphertext> chunk;
    int lowest = map_.giant_steps();
    for (int g = lowest - 1; g >= 0; --g) {
        if (g < lowest) {
            const int count = std::min<int>(lowest, static_cast<int>(kChunk));
            lowest -= count;
            chunk = sums(steps, j, lowest, count);
        }
        if (block.limbs())
            block = rotated(block, map_.row_stride);
        if (auto& sum = chunk[g - lowest]; sum.limbs())
            add_to(chain_, block, std::move(sum));
        if (g % map_.row_steps == 0) {
            if (y.limbs())
                y = rotated(y, map_.block_stride);
            if (block.limbs())
                add_to(chain_, y, std::move(block));
            block = {};
        }
    }
    if (map_.shift != 0)
        y = rotated(y, map_.shift);
    for (int k : map_.rotate_and_sum)
        add_to(chain_, y, rotated(y, k));
    return y;
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
        streamed.emplace(chain_, map_, target_, Tier::kCoefficients, 0, map_.diagonals());
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
        all, [&] { return Scratch{Poly(2 * terms + 3, n), RowSums(chain_, map_, diagonals)}; },
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
                    if (!any_present(map_, s * terms))
                        for (auto* c : {sums[s].b[row], sums[s].a[row]})
                            std::memset(c, 0, n * sizeof(uint64_t));
                }
                scratch.form(start * terms, row, m, steps, to);
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
