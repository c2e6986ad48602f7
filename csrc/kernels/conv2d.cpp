#include "kernels/conv2d.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "base/error.h"
#include "base/parallel.h"

namespace fheinfer {

namespace {

// floor(a / b) for b > 0
int floor_div(int a, int b) {
    return a >= 0 ? a / b : -((-a + b - 1) / b);
}

// Offsets along one axis: (k - padding) * gap_in + cell_in - cell_out over all k and cells.
struct Span {
    int first, last;
    int count() const {
        return last - first + 1;
    }
};

Span axis_span(const Layout& in, const Layout& out, const Conv2d& conv) {
    const int cells_in  = in.channels > 1 ? in.gap - 1 : 0;
    const int cells_out = out.channels > 1 ? out.gap - 1 : 0;
    return {-conv.padding * in.gap - cells_out, (conv.kernel - 1 - conv.padding) * in.gap + cells_in};
}

std::vector<int> range(Span s, int stride) {
    std::vector<int> v(s.count());
    for (int i = 0; i < s.count(); ++i)
        v[i] = (s.first + i) * stride;
    return v;
}

// Outputs, of `count`, whose input at `offset` from the place they stand over is one of `size`.
struct Inside {
    int first, end;
};

Inside inside(int count, int stride, int offset, int size) {
    const int first = offset < 0 ? (-offset + stride - 1) / stride : 0;
    const int end   = size - offset > 0 ? (size - offset - 1) / stride + 1 : 0;
    return {first, std::min(count, end)};
}

// Where an output position takes an input block from: its own `distance` grids ahead, in this part of the folded period.
struct Source {
    int part = 0, distance = std::numeric_limits<int>::max();
};

// [position of one output period][input block]: the nearest there is in any of the positions that are folded into one.
std::vector<Source> sources(const Layout& in, const Layout& out, int positions) {
    std::vector<Source> nearest(static_cast<std::size_t>(out.positions()) * in.blocks());
    for (int at = 0; at < positions; ++at)
        for (int distance = 0; distance < positions; ++distance) {
            const int block = in.block_at((at + distance) % positions);
            Source& best    = nearest[at % out.positions() * in.blocks() + block];
            if (distance < best.distance)
                best = {at / out.positions(), distance};
        }
    return nearest;
}

// A weight on a diagonal, and where its products go.
struct Term {
    double weight;
    int position, channel;
    int16_t ky, kx;
    int giant;  // where the products of the diagonal are rotated from afterwards
};

// What writes the diagonals of a convolution: which weights are on each, so that each is written as a whole, while it is in the
// cache.
struct Terms {
    Layout in, out;
    Conv2d conv;
    std::size_t period = 0;
    long shift         = 0;
    std::vector<std::vector<Term>> of;  // by diagonal

    bool empty(const Term& t) const {
        const Inside rows = inside(out.height, conv.stride, t.ky, in.height), columns = inside(out.width, conv.stride, t.kx, in.width);
        return rows.first >= rows.end || columns.first >= columns.end;
    }
    // No two terms of a diagonal meet in a slot, so it is zero where each of them is.
    bool nonzero(std::size_t diagonal) const {
        return std::any_of(of[diagonal].begin(), of[diagonal].end(), [&](const Term& t) { return t.weight != 0 && !empty(t); });
    }
    void write(std::size_t diagonal, std::span<double> d) const {
        for (const auto& [w, position, o, ky, kx, giant] : of[diagonal]) {
            // The giant steps rotate the product afterwards, so it is stored where they will fetch it from.
            const long moved     = giant + shift + static_cast<long>(position - out.block_of(o)) * out.grid();
            const auto corner    = static_cast<std::size_t>(static_cast<long>(out.slot(o, 0, 0)) + moved);
            const Inside rows    = inside(out.height, conv.stride, ky, in.height);
            const Inside columns = inside(out.width, conv.stride, kx, in.width);
            for (int y = rows.first; y < rows.end; ++y) {
                const std::size_t left = corner + static_cast<std::size_t>(y * out.gap) * out.grid_width;
                for (int x = columns.first; x < columns.end; ++x)
                    d[(left + static_cast<std::size_t>(x * out.gap)) & (period - 1)] += w;  // a power of two
            }
        }
    }
};

}  // namespace

Layout conv2d_output(const Layout& in, int out_channels, const Conv2d& conv) {
    in.check();
    if (conv.kernel < 1 || conv.stride < 1 || conv.padding < 0 || out_channels < 1)
        throw Error(ErrorKind::kPlan, "impossible convolution: kernel " + std::to_string(conv.kernel) + ", stride " +
                                          std::to_string(conv.stride) + ", padding " + std::to_string(conv.padding));
    Layout out   = in;
    out.replica_rotation     = 0;
    out.channels = out_channels;
    out.height   = floor_div(in.height + 2 * conv.padding - conv.kernel, conv.stride) + 1;
    out.width    = floor_div(in.width + 2 * conv.padding - conv.kernel, conv.stride) + 1;
    out.gap      = in.gap * conv.stride;
    out.check();
    return out;
}

LinearMap conv2d_map(std::span<const double> weight, const Layout& in, const Layout& out, const Conv2d& conv) {
    in.check();
    out.check();
    const int offsets = conv.kernel * conv.kernel;
    if (weight.size() != static_cast<std::size_t>(out.channels) * in.channels * offsets)
        throw Error(ErrorKind::kPlan, "a convolution weight of the wrong size");
    if (in.grid_height != out.grid_height || in.grid_width != out.grid_width || out.gap != in.gap * conv.stride)
        throw Error(ErrorKind::kPlan, "a convolution from " + in.str() + " to " + out.str() + " does not keep the grid");

    const int positions = std::max(in.positions(), out.positions());
    const auto nearest  = sources(in, out, positions);
    const Span axis     = axis_span(in, out, conv);

    LinearMap map;
    map.period = std::max(in.period(), out.period());
    map.first  = range(axis, 1);
    for (const Source& source : nearest)
        map.block_steps = std::max(map.block_steps, source.distance + 1);
    map.block_stride = in.grid();
    const int hoisted = static_cast<int>(map.first.size()) * (axis.count() - 1);
    const int horner  = map.block_steps * (axis.count() - 1);
    if (hoisted <= horner) {
        map.second = range(axis, in.grid_width);
    }
    else {
        map.row_steps  = axis.count();
        map.row_stride = in.grid_width;
        map.shift      = axis.first * in.grid_width;  // the Horner sum counts rows from zero
    }
    for (std::size_t k = out.period(); k < in.period(); k *= 2)
        map.rotate_and_sum.push_back(static_cast<int>(k));

    // Every position of the computed period forms an output block, or the part of one that is added in afterwards.
    const auto terms  = std::make_shared<Terms>(Terms{in, out, conv, map.period, map.shift, {}});
    const bool hoisted_rows = map.row_steps == 1;
    const int cells         = out.gap * out.gap;
    terms->of.resize(map.diagonals());
    for (int position = 0; position < positions; ++position) {
        const int start = out.block_at(position) * cells;
        for (int o = start; o < std::min(start + cells, out.channels); ++o)
            for (int c = 0; c < in.channels; ++c) {
                const auto [part, distance] = nearest[position % out.positions() * in.blocks() + in.block_of(c)];
                if (part != position / out.positions())
                    continue;  // formed in another part and added in
                for (int k = 0; k < offsets; ++k) {
                    const int ky = k / conv.kernel - conv.padding, kx = k % conv.kernel - conv.padding;
                    const int row = ky * in.gap + in.row_of(c) - out.row_of(o) - axis.first;
                    const int dx  = kx * in.gap + in.column_of(c) - out.column_of(o);
                    const std::size_t baby = (hoisted_rows ? row * map.first.size() : 0) + (dx - axis.first);
                    const int giant        = distance * map.row_steps + (hoisted_rows ? 0 : row);
                    const int moved  = distance * map.block_stride + (hoisted_rows ? 0 : row * map.row_stride);
                    const double w = weight[(static_cast<std::size_t>(o) * in.channels + c) * offsets + k];
                    terms->of[map.index(0, giant, 0, baby)].push_back({w, position, o, static_cast<int16_t>(ky), static_cast<int16_t>(kx), moved});
                }
            }
    }
    std::vector<char> nonzero(terms->of.size()), possible(terms->of.size());
    parallel_for(terms->of.size(), [&](std::size_t i) {
        nonzero[i]  = terms->nonzero(i);
        possible[i] = !terms->of[i].empty();
    });
    map.keep(nonzero, possible);
    map.write = [terms](std::size_t diagonal, std::span<double> zeros) { terms->write(diagonal, zeros); };
    return map;
}

std::vector<double> channel_vector(std::span<const double> values, const Layout& layout) {
    std::vector<double> v(layout.period(), 0.0);
    for (int position = 0; position < layout.positions(); ++position)
        for (int c = 0; c < layout.channels; ++c) {
            if (layout.block_of(c) != layout.block_at(position))
                continue;
            const int moved = (position - layout.block_of(c)) * layout.grid();
            for (int y = 0; y < layout.height; ++y)
                for (int x = 0; x < layout.width; ++x)
                    v[layout.slot(c, y, x) + moved] = values[c];
        }
    return v;
}

CiphertextPtr conv2d(Evaluator& evaluator, const CiphertextPtr& x, std::span<const double> weight,
                     std::span<const double> bias, const Layout& in, const Layout& out, const Conv2d& conv) {
    return conv2d_bias(evaluator, evaluator.linear_map(x, conv2d_map(weight, in, out, conv)), bias, out);
}

CiphertextPtr conv2d_bias(Evaluator& evaluator, const CiphertextPtr& y, std::span<const double> bias, const Layout& out) {
    if (bias.empty())
        return y;
    if (bias.size() != static_cast<std::size_t>(out.channels))
        throw Error(ErrorKind::kPlan, "a convolution bias of the wrong size");
    return evaluator.add_plain(y, channel_vector(bias, out));
}

}  // namespace fheinfer
