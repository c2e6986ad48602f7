#include "kernels/steps.h"

#include <algorithm>
#include <limits>

namespace fheinfer {

namespace {

// Tenths of a key switch. Hoisted rotations share their ModUp, which is about four tenths; every rotation has a key, which takes
// memory and time to load.
constexpr long kHoisted = 6, kModUp = 4, kRotation = 10, kKey = 8;

int wrapped(long value, int modulus) {
    const long r = value % modulus;
    return static_cast<int>(r < 0 ? r + modulus : r);
}

// Residues modulo a power of two as numbers of least span: they begin after the largest gap between two of them.
class Window {
public:
    Window(std::vector<char>& seen, int modulus) : modulus_(modulus) {
        int previous = -1, first = -1, widest = -1;
        for (int r = 0; r < modulus; ++r) {
            if (!seen[r])
                continue;
            if (first < 0)
                first = r;
            else if (r - previous > widest) {
                widest = r - previous;
                start_ = r;
            }
            previous = r;
        }
        if (first + modulus - previous >= widest)
            start_ = first;
        // Rather from negative numbers to positive ones than from positive ones on: zero is for free where it occurs.
        if (start_ > modulus / 2 || (start_ > 0 && seen[0]))
            start_ -= modulus;
    }
    int of(long value) const {
        return wrapped(value - start_, modulus_) + start_;
    }

private:
    int modulus_, start_ = 0;
};

// Splits one digit off all values: value = digit * unit + rest, digits modulo `radix`.
struct Digit {
    std::vector<int> digits;    // of each value
    std::vector<int> distinct;  // sorted
};

Digit split_off(std::vector<int>& values, int unit, int radix, int modulus, std::vector<char>& seen) {
    Digit out;
    std::fill(seen.begin(), seen.begin() + radix, 0);
    for (int v : values)
        seen[v / unit % radix] = 1;
    const Window window(seen, radix);
    out.digits.reserve(values.size());
    for (int& v : values) {
        const int digit = window.of(v / unit % radix);
        out.digits.push_back(digit);
        v = wrapped(v - static_cast<long>(digit) * unit, modulus);
    }
    for (int r = 0; r < radix; ++r)
        if (seen[r])
            out.distinct.push_back(window.of(r));
    std::sort(out.distinct.begin(), out.distinct.end());
    return out;
}

int span_of(const std::vector<int>& distinct) {
    return distinct.back() - distinct.front() + 1;
}

long hoisted(const std::vector<int>& steps) {
    const auto moved = static_cast<long>(steps.size()) - (std::binary_search(steps.begin(), steps.end(), 0) ? 1 : 0);
    return moved ? kModUp + moved * kHoisted : 0;
}

long keys(const std::vector<int>& steps) {
    return static_cast<long>(steps.size()) * kKey;
}

std::vector<int> times(std::vector<int> values, int unit) {
    for (int& v : values)
        v *= unit;
    return values;
}

void consider(StepSplit& best, const Digit& columns, const Digit& rows, const Digit& blocks, int m1, int m2, long inputs, long outputs) {
    const int rows_span = span_of(rows.distinct), blocks_span = span_of(blocks.distinct);
    const bool shifted_blocks = blocks.distinct.front() != 0;
    {
        StepSplit s;
        s.first        = columns.distinct;
        s.second       = times(rows.distinct, m1);
        s.block_steps  = blocks_span;
        s.block_stride = blocks_span > 1 || shifted_blocks ? m2 : 0;
        s.block_start  = blocks.distinct.front();
        s.cost = inputs * (hoisted(s.first) + static_cast<long>(s.first.size()) * hoisted(s.second)) + keys(s.first) + keys(s.second) +
                 outputs * (blocks_span - 1 + shifted_blocks) * kRotation;
        if (s.cost < best.cost)
            best = s;
    }
    if (rows.distinct.size() > 1) {
        StepSplit s;
        s.first        = columns.distinct;
        s.row_steps    = rows_span;
        s.row_stride   = m1;
        s.row_start    = rows.distinct.front();
        s.block_steps  = blocks_span;
        s.block_stride = blocks_span > 1 || shifted_blocks ? m2 : 0;
        s.block_start  = blocks.distinct.front();
        const long giants = static_cast<long>(rows_span) * blocks_span - 1 + (s.shift() != 0);
        s.cost = inputs * hoisted(s.first) + keys(s.first) + 2 * kKey + outputs * giants * kRotation;
        if (s.cost < best.cost)
            best = s;
    }
}

}  // namespace

StepSplit split_steps(std::span<const int> distances, int modulus, int inputs, int outputs) {
    StepSplit best;
    best.cost = std::numeric_limits<long>::max();
    std::vector<char> seen(modulus);
    std::vector<int> after_columns, rest;
    for (int m1 = 1; m1 <= modulus; m1 *= 2) {
        after_columns.assign(distances.begin(), distances.end());
        const Digit columns = split_off(after_columns, 1, m1, modulus, seen);
        if (inputs * hoisted(columns.distinct) >= best.cost)
            continue;
        for (int m2 = m1; m2 <= modulus; m2 *= 2) {
            rest = after_columns;
            const Digit rows   = split_off(rest, m1, m2 / m1, modulus, seen);
            const Digit blocks = split_off(rest, m2, modulus / m2, modulus, seen);
            consider(best, columns, rows, blocks, m1, m2, inputs, outputs);
        }
    }
    return best;
}

std::vector<StepPlace> step_places(const StepSplit& s, int modulus) {
    std::vector<StepPlace> places(modulus);
    for (int block = 0; block < s.block_steps; ++block)
        for (int row = 0; row < s.row_steps; ++row) {
            const int giant_rotation = s.shift() + block * s.block_stride + row * s.row_stride;
            for (std::size_t second = 0; second < s.second.size(); ++second)
                for (std::size_t first = 0; first < s.first.size(); ++first) {
                    const int rotation = s.first[first] + s.second[second] + giant_rotation;
                    auto& place        = places[wrapped(rotation, modulus)];
                    if (place.giant < 0)
                        place = {block * s.row_steps + row, static_cast<int>(second * s.first.size() + first), rotation, giant_rotation};
                }
        }
    return places;
}

}  // namespace fheinfer
