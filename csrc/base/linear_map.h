// A linear map from a tuple of ciphertexts to a tuple of ciphertexts, y_j = sum_i M_ji x_i, as generalised diagonals in the
// order of baby-step giant-step evaluation. One description for convolutions, linear layers and the matrices of
// bootstrapping; Evaluator::linear_map and ckks/linear_map.h evaluate it.
#pragma once

#include <complex>
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

namespace fheinfer {

using Diagonal = std::vector<double>;  // `period` values, or empty for one that is all zero

// How the rotations of an input are made.
enum class Hoisting {
    // One ModUp for each hoisted set, one ModDown for each rotation; sums are formed modulo Q. For few limbs and wide sums.
    kSingle,
    // Baby steps and sums stay modulo QP, one ModDown for each giant step (ePrint 2020/1203). For the tall, square matrices
    // of bootstrapping, where rotations cost more than products. First rotations are made one from the other; giant steps are
    // one Horner sum (block_steps is 1), and nothing follows it.
    kDouble,
};

// y_j = rotate_and_sum( rot_shift( sum_b rot_{b*block_stride}( sum_r rot_{r*row_stride}( sum_i sum_t d[j][b][r][i][t] * baby_t(x_i) ) ) ) )
//
//   baby steps     the input rotated by first[f] + second[s], in the order t = s * first.size() + f: |first| + |second| keys
//                  serve |first| * |second| of them.
//   giant steps    two nested Horner sums, over r and over b, with one rotation key each.
//   rotate_and_sum y += rot_k(y) for each of these k in order: adds up the parts of a sum that stand in different blocks.
//
// Rotation by k moves slot i + k to slot i. Diagonals are stored already rotated back by the giant steps that follow them, so
// each is a plain slot-wise factor of its baby step. One level.
struct LinearMap {
    std::size_t period = 0;  // slots after which every diagonal repeats, a power of two
    int inputs = 1, outputs = 1;
    std::vector<int> first{0}, second{0};
    int row_steps = 1, row_stride = 0;
    int block_steps = 1, block_stride = 0;
    int shift = 0;
    std::vector<int> rotate_and_sum;
    Hoisting hoisting = Hoisting::kSingle;

    // By index(): 1 for the diagonals that there are; the others are all zero.
    std::vector<char> present;
    // Adds diagonal `index` to `period` zeros; may be called from several threads at once. `write_complex` where the diagonals
    // are complex, else `write`.
    std::function<void(std::size_t index, std::span<double> zeros)> write;
    std::function<void(std::size_t index, std::span<std::complex<double>> zeros)> write_complex;

    std::size_t baby_steps() const {
        return first.size() * second.size();
    }
    int giant_steps() const {
        return block_steps * row_steps;
    }
    // Products in the sum of one giant step.
    std::size_t terms() const {
        return static_cast<std::size_t>(inputs) * baby_steps();
    }
    std::size_t diagonals() const {
        return static_cast<std::size_t>(outputs) * giant_steps() * terms();
    }
    // Of giant step g = block * row_steps + row.
    std::size_t index(int output, int giant, int input, std::size_t baby) const {
        return ((static_cast<std::size_t>(output) * giant_steps() + giant) * inputs + input) * baby_steps() + baby;
    }
    bool is_complex() const {
        return static_cast<bool>(write_complex);
    }

    // Keeps, of each sum of a giant step, what `nonzero` says, and one diagonal of those `possible` where that leaves none:
    // rotations and keys then depend on the shapes alone, because keys are made before the weights are known.
    void keep(const std::vector<char>& nonzero, const std::vector<char>& possible);
    // A real diagonal by itself; empty where it is zero.
    Diagonal diagonal(std::size_t index) const;
    // Throws Error(kPlan) where sizes contradict each other or an output has no diagonal.
    void check() const;
};

}  // namespace fheinfer
