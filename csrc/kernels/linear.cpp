#include "kernels/linear.h"

#include <algorithm>
#include <bit>
#include <memory>

#include "base/error.h"

namespace fheinfer {

namespace {

// The mask of zeros and ones that follows can spare these bits.
constexpr int kFiner = 8;

bool is_vector(const Layout& l) {
    return l.channels == 1 && l.height == 1 && l.gap == 1 && l.grid_height == 1;
}

// Slots and weights of each diagonal.
using Entries = std::vector<std::vector<std::pair<std::size_t, double>>>;

void set_diagonals(LinearMap& map, Entries entries) {
    std::vector<char> possible(entries.size());
    for (std::size_t i = 0; i < entries.size(); ++i)
        possible[i] = !entries[i].empty();
    map.present = std::move(possible);
    map.write   = [entries = std::make_shared<const Entries>(std::move(entries))](std::size_t diagonal, std::span<double> zeros) {
        for (const auto& [slot, weight] : (*entries)[diagonal])
            zeros[slot % zeros.size()] += weight;
    };
}

// Baby steps and giant steps over all distances between a feature and an output: 2 sqrt(period) rotation keys.
LinearMap vector_map(std::span<const double> weight, const Layout& in, const Layout& out) {
    const int distances = static_cast<int>(in.period());
    const int baby      = 1 << (std::bit_width(static_cast<unsigned>(distances)) / 2);

    LinearMap map;
    map.period = out.period();
    map.first.clear();
    for (int d = 0; d < baby; ++d)
        map.first.push_back(d);
    map.row_steps  = distances / baby;
    map.row_stride = baby;
    Entries entries(map.diagonals());
    for (int o = 0; o < out.width; ++o)
        for (int x = 0; x < in.width; ++x) {
            const int distance = (x - o) & (distances - 1), row = distance / baby;
            entries[map.index(0, row, 0, static_cast<std::size_t>(distance % baby))].emplace_back(
                o + row * baby, weight[static_cast<std::size_t>(o) * in.width + x]);
        }
    set_diagonals(map, std::move(entries));
    return map;
}

}  // namespace

Layout sum_pool_output(const Layout& in) {
    in.check();
    Layout out = in;
    out.height = out.width = 1;
    return out;
}

CiphertextPtr sum_pool(Evaluator& evaluator, const CiphertextPtr& x, const Layout& in) {
    in.check();
    for (int size : {in.height, in.width})
        if (!std::has_single_bit(static_cast<unsigned>(size)))
            throw Error(ErrorKind::kPlan, "global pooling needs a height and width that are powers of two, not " + in.str());
    auto sum = x;
    for (int i = 1; i < in.width; i *= 2)
        sum = evaluator.add(sum, evaluator.rotate(sum, i * in.gap));
    for (int i = 1; i < in.height; i *= 2)
        sum = evaluator.add(sum, evaluator.rotate(sum, i * in.gap * in.grid_width));
    return sum;
}

Layout linear_output(const Layout& in, int out_features) {
    in.check();
    Layout out;
    out.channels = out.height = out.grid_height = 1;
    out.width      = out_features;
    out.grid_width = static_cast<int>(in.period());
    if (is_vector(in))  // one that repeats more often than the output is long serves as it is
        out.grid_width = std::max(out.grid_width, static_cast<int>(std::bit_ceil(static_cast<unsigned>(out_features))));
    else if (out_features > in.grid())
        throw Error(ErrorKind::kPlan, "a linear layer of " + std::to_string(out_features) + " outputs does not fit a grid of " +
                                          std::to_string(in.grid()) + " slots");
    out.check();
    return out;
}

namespace {

LinearMap unmasked_map(std::span<const double> weight, const Layout& in, const Layout& out) {
    const std::size_t features = static_cast<std::size_t>(in.channels) * in.height * in.width;
    if (weight.size() != features * out.width)
        throw Error(ErrorKind::kPlan, "a linear weight of the wrong size");
    if (in.replica_rotation)
        throw Error(ErrorKind::kPlan, "a linear layer takes equal replicas, not " + in.str());
    if (is_vector(in))
        return vector_map(weight, in, out);
    const int rows = in.height * in.gap, columns = in.width * in.gap;

    LinearMap map;
    map.period = in.period();
    map.first.clear();
    for (int d = -(out.width - 1); d < columns; ++d)
        map.first.push_back(d);
    map.row_steps  = rows;
    map.row_stride = in.grid_width;
    for (std::size_t k = in.grid(); k < map.period; k *= 2)
        map.rotate_and_sum.push_back(static_cast<int>(k));
    Entries entries(map.diagonals());
    for (int o = 0; o < out.width; ++o) {
        std::size_t feature = 0;
        for (int c = 0; c < in.channels; ++c)
            for (int y = 0; y < in.height; ++y)
                for (int x = 0; x < in.width; ++x, ++feature) {
                    const int row = y * in.gap + in.row_of(c), column = x * in.gap + in.column_of(c);
                    // The Horner step brings this product back by row * row_stride.
                    const std::size_t slot = static_cast<std::size_t>(in.block_of(c)) * in.grid() + o + row * map.row_stride;
                    entries[map.index(0, row, 0, static_cast<std::size_t>(column - o + out.width - 1))].emplace_back(
                        slot, weight[o * features + feature]);
                }
    }
    set_diagonals(map, std::move(entries));
    return map;
}

}  // namespace

CiphertextPtr linear(Evaluator& evaluator, const CiphertextPtr& x, std::span<const double> weight,
                     std::span<const double> bias, const Layout& in, const Layout& out, bool mask) {
    return linear_tail(evaluator, evaluator.linear_map(x, linear_layer_map(weight, in, out, mask)), bias, out, mask);
}

LinearMap linear_layer_map(std::span<const double> weight, const Layout& in, const Layout& out, bool mask) {
    auto map = unmasked_map(weight, in, out);
    if (mask)
        map.finer = kFiner;
    return map;
}

CiphertextPtr linear_tail(Evaluator& evaluator, CiphertextPtr y, std::span<const double> bias, const Layout& out, bool mask) {
    if (mask) {
        std::vector<double> ones(out.period(), 0.0);
        std::fill_n(ones.begin(), out.width, 1.0);
        y = evaluator.multiply_plain(y, ones);
    }
    if (bias.empty())
        return y;
    if (bias.size() != static_cast<std::size_t>(out.width))
        throw Error(ErrorKind::kPlan, "a linear bias of the wrong size");
    std::vector<double> padded(out.period(), 0.0);
    std::copy(bias.begin(), bias.end(), padded.begin());
    return evaluator.add_plain(y, padded);
}

}  // namespace fheinfer
