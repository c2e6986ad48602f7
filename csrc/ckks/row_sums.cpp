#include "ckks/row_sums.h"

#include <algorithm>

#include "ring/accumulate.h"

namespace fheinfer::ckks {

using namespace ring;

namespace {

// Measured in docs/explanation/performance.md.
constexpr std::size_t kTileBytes = std::size_t{1} << 20;  // of diagonals in evaluation form
constexpr std::size_t kPart      = 2048;                  // residues that are summed at once

}  // namespace

RowSums::RowSums(const Chain& chain, const EncodedDiagonals& diagonals, std::size_t period, std::size_t terms)
    : chain_(chain), diagonals_(diagonals), size_(2 * std::max<std::size_t>(period, 8)), tile_terms_(std::min(terms, kMaxTerms)) {
    if (diagonals.encoded())
        return;
    tile_terms_ = std::clamp<std::size_t>(kTileBytes / (kGiants * diagonals.typical_values() * sizeof(uint64_t)), 1, tile_terms_);
    tile_       = Poly(kGiants * tile_terms_, size_);
}

void RowSums::operator()(std::size_t first, std::size_t stride, std::size_t row, const Modulus& m, std::span<const Step> steps,
                         std::span<const Sum> sums) {
    products_.resize(sums.size());
    for (std::size_t g = 0; g < sums.size(); ++g)
        products_[g].started = sums[g].started;
    for (std::size_t start = 0; start < steps.size(); start += tile_terms_) {
        const std::size_t end = std::min(start + tile_terms_, steps.size());
        for (std::size_t g = 0; g < sums.size(); ++g)
            gather(products_[g], first + g * stride, row, steps, start, end, g * tile_terms_);
        const std::size_t n = chain_.n(), part = std::min(n / 2, kPart);
        for (std::size_t i = 0; i < n; i += part)
            for (std::size_t g = 0; g < sums.size(); ++g)
                add(sums[g], products_[g], i, part, m);
        for (auto& p : products_)
            p.started |= !p.whole.ys.empty() || !p.mirrored.ys.empty();
    }
    products_.clear();
}

void RowSums::gather(Products& p, std::size_t index, std::size_t row, std::span<const Step> steps, std::size_t start, std::size_t end,
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
void RowSums::add(const Sum& sum, const Products& p, std::size_t i, std::size_t part, const Modulus& m) {
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

}  // namespace fheinfer::ckks
