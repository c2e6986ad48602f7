// A linear map on slots, as diagonals arranged for baby-step giant-step evaluation.
#pragma once

#include <cstddef>
#include <vector>

namespace fheinfer {

using Diagonal = std::vector<double>;  // `period` values, or empty for an all-zero diagonal

// out = fold( rot_shift( sum_b rot_{b*block_stride}( sum_r rot_{r*row_stride}( sum_t d[b][r][t] * tap_t ) ) ) )
//
//   taps    the input rotated by columns[j] + rows[i], in the order t = i * columns.size() + j. The columns are
//           one hoisted set; the rows are hoisted again on each column, so |columns| + |rows| keys serve
//           |columns| * |rows| taps.
//   r, b    Horner sums with one rotation key each.
//   folds   out += rot_f(out), in order: adds up the parts of a sum that stand in different blocks.
//
// Rotation by k moves slot i + k to slot i. Diagonals are stored already rotated back by the giant steps that
// follow them, so each is a plain slot-wise factor of its tap. Consumes one level (the caller rescales once).
struct LinearTransform {
    std::size_t period = 0;
    std::vector<int> columns{0};
    std::vector<int> rows{0};
    int row_steps    = 1;
    int row_stride   = 0;
    int block_steps  = 1;
    int block_stride = 0;
    int shift        = 0;
    std::vector<int> folds;
    // Bits by which diagonals and output may have a finer scale than others, for sums of very many products; the next
    // factor has a scale as much coarser. An evaluator may leave it.
    int finer = 0;
    std::vector<Diagonal> diagonals;  // [block][row][tap]

    std::size_t taps() const {
        return columns.size() * rows.size();
    }
    Diagonal& diagonal(int block, int row, std::size_t tap) {
        return diagonals[(static_cast<std::size_t>(block) * row_steps + row) * taps() + tap];
    }
    const Diagonal& diagonal(int block, int row, std::size_t tap) const {
        return diagonals[(static_cast<std::size_t>(block) * row_steps + row) * taps() + tap];
    }
};

}  // namespace fheinfer
