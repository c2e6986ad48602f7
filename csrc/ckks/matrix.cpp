#include "ckks/matrix.h"

#include <algorithm>
#include <memory>

namespace fheinfer::ckks {

namespace {

// With fewer keys: measured in docs/explanation/performance.md.
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
        if (start + b != 0)
            out.push_back((start + b) * stride);
    if (hoisted < baby)
        out.push_back(hoisted * stride);
    if (giant > 1)
        out.push_back(baby * stride);
    return out;
}

LinearMap matrix_map(Diagonals diagonals, const Steps& steps) {
    LinearMap map;
    map.hoisting = Hoisting::kDouble;
    map.period   = diagonals.begin()->second.size();
    map.first.clear();
    map.second.clear();
    for (int part = 0; part < steps.baby / steps.hoisted; ++part)
        map.first.push_back(part * steps.hoisted * steps.stride);
    for (int b = 0; b < steps.hoisted; ++b)
        map.second.push_back((steps.start + b) * steps.stride);
    map.row_steps  = steps.giant;
    map.row_stride = steps.baby * steps.stride;
    map.present.assign(map.diagonals(), 0);

    struct Placed {
        const std::vector<Complex>* values = nullptr;
        std::size_t moved = 0;  // the giant step rotates the product by this much afterwards
    };
    struct Matrix {
        Diagonals diagonals;
        std::vector<Placed> at;
    };
    auto matrix = std::make_shared<Matrix>(Matrix{std::move(diagonals), std::vector<Placed>(map.diagonals())});
    for (int g = 0; g < steps.giant; ++g)
        for (int b = 0; b < steps.baby; ++b) {
            const auto found = matrix->diagonals.find((steps.start + b + g * steps.baby) * steps.stride);
            if (found == matrix->diagonals.end())
                continue;
            const std::size_t baby = static_cast<std::size_t>(b % steps.hoisted) * map.first.size() + b / steps.hoisted;
            const std::size_t i    = map.index(0, g, 0, baby);
            map.present[i]         = 1;
            matrix->at[i]          = {&found->second, static_cast<std::size_t>(g) * steps.baby * steps.stride};
        }
    map.write_complex = [matrix](std::size_t index, std::span<Complex> zeros) {
        const auto& [values, moved] = matrix->at[index];
        for (std::size_t i = 0; i < zeros.size(); ++i)
            zeros[(i + moved) % zeros.size()] += (*values)[i];
    };
    return map;
}

}  // namespace fheinfer::ckks
