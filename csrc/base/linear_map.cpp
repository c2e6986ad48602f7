#include "base/linear_map.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace fheinfer {

void LinearMap::keep(const std::vector<char>& nonzero, const std::vector<char>& possible) {
    present = nonzero;
    for (std::size_t start = 0; start < present.size(); start += terms()) {
        const auto sum = std::span<char>(present).subspan(start, terms());
        if (std::find(sum.begin(), sum.end(), 1) != sum.end())
            continue;
        const auto one = std::find(possible.begin() + start, possible.begin() + start + terms(), 1) - possible.begin() - start;
        if (static_cast<std::size_t>(one) < terms())
            sum[one] = 1;
    }
}

Diagonal LinearMap::diagonal(std::size_t index) const {
    if (!present[index])
        return {};
    Diagonal out(period);
    write(index, out);
    return out;
}

void LinearMap::check() const {
    if (!std::has_single_bit(period) || inputs < 1 || outputs < 1 || first.empty() || second.empty() || row_steps < 1 ||
        block_steps < 1 || present.size() != diagonals() || is_complex() == static_cast<bool>(write))
        throw Error(ErrorKind::kPlan, "a linear map whose sizes contradict each other");
    const std::size_t of_one = present.size() / outputs;
    for (std::size_t start = 0; start < present.size(); start += of_one)
        if (std::find(present.begin() + start, present.begin() + start + of_one, 1) == present.begin() + start + of_one)
            throw Error(ErrorKind::kPlan, "a linear map with no non-zero diagonal");
}

}  // namespace fheinfer
