// One limb of the sums of a linear map: products of baby steps and diagonals, formed while they are in the cache.
#pragma once

#include <span>
#include <vector>

#include "ckks/diagonals.h"

namespace fheinfer::ckks {

using ring::Poly;

// Sums that share the baby steps while these are in the cache; measured in docs/explanation/performance.md.
inline constexpr std::size_t kGiants = 4;

// One row of a baby step.
struct Step {
    const uint64_t *c0, *c1;
};

// One row of a sum: null where it has no diagonal; `started` where earlier products are in it.
struct Sum {
    uint64_t *c0 = nullptr, *c1 = nullptr;
    bool started = false;
};

// Forms one row of several sums over the same baby steps, a tile of diagonals in evaluation form at a time. One for each
// thread.
class RowSums {
public:
    // For sums of so many products, of diagonals with this period.
    RowSums(const Chain& chain, const EncodedDiagonals& diagonals, std::size_t period, std::size_t terms);

    // sums[g] = sum_t steps[t] * diagonal `first + g * stride + t`, of row `row` of the target; added to those that have started.
    void operator()(std::size_t first, std::size_t stride, std::size_t row, const ring::Modulus& m, std::span<const Step> steps,
                    std::span<const Sum> sums);

private:
    // Factors of products, where they begin.
    struct Factors {
        std::vector<Step> steps;
        std::vector<const uint64_t*> ys;
    };
    struct Products {
        Factors whole, mirrored;
        bool started = false;
    };

    void gather(Products& p, std::size_t index, std::size_t row, std::span<const Step> steps, std::size_t start, std::size_t end,
                std::size_t place);
    void add(const Sum& sum, const Products& p, std::size_t i, std::size_t part, const ring::Modulus& m);

    const Chain& chain_;
    const EncodedDiagonals& diagonals_;
    std::size_t size_, tile_terms_;
    Poly tile_;
    std::vector<Products> products_;
    std::vector<const uint64_t*> x0_, x1_, ys_;
};

}  // namespace fheinfer::ckks
