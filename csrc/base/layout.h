// Where the elements of a (channels, height, width) tensor sit in the slots of one ciphertext.
#pragma once

#include <cstddef>
#include <string>

namespace fheinfer {

// Multiplexed packing (Lee et al., ePrint 2021/1688): a grid of grid_height x grid_width slots, in which
// neighbouring pixels stand `gap` apart and the gap x gap cells between them hold gap^2 channels. A channel
// beyond those goes to the next grid ("block"). A strided convolution multiplies the gap and keeps the grid,
// so its output needs no collecting.
//
// The content has a period of blocks * grid slots, rounded up to a power of two, and repeats with it through
// all slots of the ciphertext: rotations are cyclic in the period.
struct Layout {
    int channels    = 0;
    int height      = 0;
    int width       = 0;
    int gap         = 1;
    int grid_height = 0;  // at least height * gap; after pooling, larger
    int grid_width  = 0;

    int grid() const {
        return grid_height * grid_width;
    }
    int blocks() const;          // grids in one period, a power of two
    std::size_t period() const;  // slots, a power of two

    // Offset inside the grid of channel c's cell, and the block the channel lives in.
    int block_of(int c) const {
        return c / (gap * gap);
    }
    int row_of(int c) const {
        return (c % (gap * gap)) / gap;
    }
    int column_of(int c) const {
        return c % gap;
    }
    std::size_t slot(int c, int y, int x) const;

    // Throws Error(kPlan) unless the sizes are positive, the grid is a power of two that holds the tensor,
    // and the gap is a power of two.
    void check() const;
    std::string str() const;
};

}  // namespace fheinfer
