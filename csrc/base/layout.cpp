#include "base/layout.h"

#include <bit>

#include "base/error.h"

namespace fheinfer {

int Layout::blocks() const {
    const int cells = gap * gap;
    return static_cast<int>(std::bit_ceil(static_cast<unsigned>((channels + cells - 1) / cells)));
}

std::size_t Layout::slot(int c, int y, int x) const {
    return static_cast<std::size_t>(block_of(c)) * grid() + (y * gap + row_of(c)) * grid_width + x * gap + column_of(c);
}

void Layout::check() const {
    const auto power_of_two = [](int v) { return v > 0 && std::has_single_bit(static_cast<unsigned>(v)); };
    const bool fits = channels > 0 && height > 0 && width > 0 && power_of_two(gap) && power_of_two(grid_height) &&
                      power_of_two(grid_width) && height * gap <= grid_height && width * gap <= grid_width &&
                      (replica_rotation == 0 || (power_of_two(replica_rotation) && replica_rotation < blocks()));
    if (!fits)
        throw Error(ErrorKind::kPlan, "impossible layout " + str());
}

std::string Layout::str() const {
    return "(" + std::to_string(channels) + ", " + std::to_string(height) + ", " + std::to_string(width) + ") gap " +
           std::to_string(gap) + " in a " + std::to_string(grid_height) + "x" + std::to_string(grid_width) + " grid" +
           (replica_rotation ? " replica_rotation " + std::to_string(replica_rotation) : "");
}

}  // namespace fheinfer
