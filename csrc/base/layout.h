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
// `blocks` grids, rounded up to a power of two, are one copy of the tensor, and copies fill the ciphertext. They are
// equal, or each is rotated by `replica_rotation` blocks against the one before it: the same block distance then reaches other
// channels from every copy, so that each copy can do a part of a sum. Either way slots repeat with `period`, and
// rotations are cyclic in it.
struct Layout {
    int channels    = 0;
    int height      = 0;
    int width       = 0;
    int gap         = 1;
    int grid_height = 0;  // at least height * gap; after pooling, larger
    int grid_width  = 0;
    int replica_rotation        = 0;  // blocks, a power of two below blocks(), or 0 for equal copies

    int grid() const {
        return grid_height * grid_width;
    }
    int blocks() const;  // grids of one copy, a power of two
    int replicas() const {
        return replica_rotation ? blocks() / replica_rotation : 1;  // copies that differ
    }
    int positions() const {
        return replicas() * blocks();  // grids in one period
    }
    std::size_t period() const {
        return static_cast<std::size_t>(positions()) * grid();  // slots, a power of two
    }
    // The block that stands at a position, counted in grids from slot 0.
    int block_at(int position) const {
        return (position + position / blocks() * replica_rotation) % blocks();
    }

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
    // The first copy is never rotated: whoever reads a tensor needs no other.
    std::size_t slot(int c, int y, int x) const;

    // Throws Error(kPlan) unless the sizes are positive, the grid is a power of two that holds the tensor,
    // the gap is a power of two, and the replica_rotation is one below blocks() or zero.
    void check() const;
    std::string str() const;
};

}  // namespace fheinfer
