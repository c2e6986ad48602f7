#include "kernels/map_builder.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/parallel.h"

namespace fheinfer {

namespace {

void check_side(const Side& s, std::size_t block) {
    if (s.ciphertexts < 1 || !std::has_single_bit(s.period) || s.period > (1u << 17) || !std::has_single_bit(block) ||
        (s.rotation != 0 && (!std::has_single_bit(s.rotation) || s.rotation >= s.period || s.rotation % block != 0)))
        throw Error(ErrorKind::kPlan, "impossible sides of a linear map: " + std::to_string(s.ciphertexts) + " ciphertexts of period " +
                                          std::to_string(s.period) + ", replicas rotated by " + std::to_string(s.rotation));
}

// Products of one weight, on the diagonal they are part of.
struct Entry {
    double weight;
    uint32_t corner, pattern;
};

// The entries of all diagonals, one after the other.
struct Entries {
    std::vector<Pattern> patterns;
    std::vector<std::size_t> start;  // by diagonal, and the end of the last
    std::vector<Entry> entries;
    std::size_t period = 1;

    std::span<const Entry> of(std::size_t diagonal) const {
        return std::span(entries).subspan(start[diagonal], start[diagonal + 1] - start[diagonal]);
    }
    void write(std::size_t diagonal, std::span<double> d) const {
        const std::size_t mask = period - 1;
        for (const auto& e : of(diagonal)) {
            const Pattern& p = patterns[e.pattern];
            for (int y = 0; y < p.rows; ++y)
                for (int x = 0; x < p.columns; ++x)
                    d[(e.corner + static_cast<std::size_t>(y) * p.out_row + static_cast<std::size_t>(x) * p.out_column) & mask] += e.weight;
        }
    }
};

std::size_t diagonal_of(const LinearMap& map, const std::vector<StepPlace>& places, uint32_t sum, std::size_t distance) {
    const auto& place = places[distance];
    return map.index(static_cast<int>(sum) / map.inputs, place.giant, static_cast<int>(sum) % map.inputs,
                     static_cast<std::size_t>(place.baby));
}

}  // namespace

MapBuilder::MapBuilder(Side in, Side out, std::size_t block, bool shape_only)
    : in_(in), out_(out), block_(block), total_(std::max(in.total(), out.total())), rotated_(in.rotation || out.rotation),
      shape_only_(shape_only) {
    check_side(in, block);
    check_side(out, block);
    if (shape_only_)
        seen_.resize(static_cast<std::size_t>(in.ciphertexts) * out.ciphertexts);
    if (!rotated_)
        return;
    const std::size_t positions = total_ / block, ins = in.period / block, outs = out.total() / block, turn = in.rotation / block;
    sources_.resize(outs * ins);
    for (std::size_t at = 0; at < positions; ++at)
        for (std::size_t distance = 0; distance < positions; ++distance) {
            const std::size_t position = (at + distance) % positions;
            auto& best = sources_[at % outs * ins + (position + position / ins * turn) % ins];
            if (best.distance < 0 || static_cast<int32_t>(distance) < best.distance)
                best = {static_cast<int32_t>(at / outs), static_cast<int32_t>(distance)};
        }
}

std::size_t MapBuilder::modulus() const {
    return rotated_ ? total_ : std::min(in_.total(), out_.total());
}

void MapBuilder::add(const Pattern& pattern, std::span<const int64_t> outs, std::span<const int64_t> ins, std::span<const double> weights,
                     int groups) {
    if (groups < 1 || outs.size() % groups || ins.size() % groups || pattern.rows < 1 || pattern.columns < 1 ||
        (!shape_only_ && weights.size() != outs.size() * (ins.size() / groups)))
        throw Error(ErrorKind::kPlan, "weights that do not fit the places of a linear map");
    const auto inside = [](std::span<const int64_t> places, const Side& s) {
        return std::all_of(places.begin(), places.end(),
                           [&](int64_t p) { return p < static_cast<int64_t>(s.period) * s.ciphertexts; });
    };
    if (!inside(outs, out_) || !inside(ins, in_))
        throw Error(ErrorKind::kPlan, "a place beyond the ciphertexts of a linear map");
    // Only products of one distance are a pattern: where rows, or columns, stand apart otherwise in the output, each is its own.
    if (pattern.in_row != pattern.out_row || pattern.in_column != pattern.out_column) {
        const bool rows = pattern.rows > 1 && pattern.in_row != pattern.out_row;
        const bool columns = pattern.columns > 1 && pattern.in_column != pattern.out_column;
        if (rows || columns) {
            add_apart(pattern, rows, columns, outs, ins, weights, groups);
            return;
        }
    }
    if (!shape_only_ || patterns_.empty())  // nobody writes diagonals of a shape
        patterns_.push_back(pattern);
    const auto number         = static_cast<uint32_t>(patterns_.size() - 1);
    const std::size_t of_ins  = ins.size() / groups, of_outs = outs.size() / groups;
    if (const std::size_t needed = terms_.size() + outs.size() * of_ins * out_.replicas(); !shape_only_ && needed > terms_.capacity())
        terms_.reserve(std::max(needed, terms_.capacity() + terms_.capacity() / 2));  // exactly, for a layer of one pattern
    for (std::size_t o = 0; o < outs.size(); ++o) {
        if (outs[o] < 0)
            continue;
        const auto from = ins.subspan(o / of_outs * of_ins, of_ins);
        for (std::size_t c = 0; c < of_ins; ++c)
            if (from[c] >= 0)
                join(number, outs[o], from[c], shape_only_ ? 1.0 : weights[o * of_ins + c]);
    }
}

void MapBuilder::add_apart(const Pattern& pattern, bool rows, bool columns, std::span<const int64_t> outs, std::span<const int64_t> ins,
                           std::span<const double> weights, int groups) {
    Pattern part = pattern;
    if (rows)
        part.rows = 1;
    if (columns)
        part.columns = 1;
    std::vector<int64_t> to(outs.size()), from(ins.size());
    const auto moved = [](std::span<const int64_t> places, long by, std::vector<int64_t>& result) {
        std::transform(places.begin(), places.end(), result.begin(), [by](int64_t p) { return p < 0 ? p : p + by; });
    };
    for (int y = 0; y < (rows ? pattern.rows : 1); ++y)
        for (int x = 0; x < (columns ? pattern.columns : 1); ++x) {
            moved(outs, static_cast<long>(y) * pattern.out_row + static_cast<long>(x) * pattern.out_column, to);
            moved(ins, static_cast<long>(y) * pattern.in_row + static_cast<long>(x) * pattern.in_column, from);
            add(part, to, from, weights, groups);
        }
}

void MapBuilder::join(uint32_t number, int64_t out, int64_t in, double weight) {
    const auto sum  = static_cast<uint32_t>(out / out_.period * in_.ciphertexts + in / in_.period);
    const auto u    = static_cast<std::size_t>(in) % in_.period, p = static_cast<std::size_t>(out) % out_.period;
    if (!rotated_) {
        const std::size_t d = (u - p) & (in_.period - 1);
        put({weight, number, sum, static_cast<int32_t>(p), static_cast<int32_t>(d)});
        return;
    }
    for (std::size_t replica = 0; replica < out_.replicas(); ++replica) {
        const std::size_t q = replica * out_.period + ((p - replica * out_.rotation) & (out_.period - 1));
        const auto [part, blocks] = sources_[q / block_ * (in_.period / block_) + u / block_];
        const long distance = static_cast<long>(blocks) * block_ + static_cast<long>(u % block_) - static_cast<long>(q % block_);
        put({weight, number, sum, static_cast<int32_t>(q + part * out_.total()), static_cast<int32_t>(distance & (total_ - 1))});
    }
}

void MapBuilder::put(const Term& term) {
    if (!shape_only_) {
        terms_.push_back(term);
        return;
    }
    auto& bits = seen_[term.sum];
    const std::size_t distance = static_cast<std::size_t>(term.distance) & (modulus() - 1);
    if (bits.empty())
        bits.resize(modulus() / 64 + 1);
    bits[distance / 64] |= uint64_t{1} << distance % 64;
}

template <class F>
void MapBuilder::for_each(F&& f) const {
    const std::size_t mask = modulus() - 1;
    for (const auto& t : terms_)
        f(t.sum, static_cast<std::size_t>(t.distance) & mask);
    for (std::size_t sum = 0; sum < seen_.size(); ++sum)
        for (std::size_t word = 0; word < seen_[sum].size(); ++word)
            for (uint64_t bits = seen_[sum][word]; bits; bits &= bits - 1)
                f(static_cast<uint32_t>(sum), word * 64 + static_cast<std::size_t>(std::countr_zero(bits)));
}

LinearMap MapBuilder::steps(std::vector<StepPlace>& places) const {
    const auto m = static_cast<int>(modulus());
    std::vector<char> seen(m);
    for_each([&](uint32_t, std::size_t distance) { seen[distance] = 1; });
    std::vector<int> distances;
    for (int d = 0; d < m; ++d)
        if (seen[d])
            distances.push_back(d);
    const StepSplit split = split_steps(distances, m, in_.ciphertexts, out_.ciphertexts);
    places                = step_places(split, m);

    LinearMap map;
    map.period       = total_;
    map.inputs       = in_.ciphertexts;
    map.outputs      = out_.ciphertexts;
    map.first        = split.first;
    map.second       = split.second;
    map.row_steps    = split.row_steps;
    map.row_stride   = split.row_stride;
    map.block_steps  = split.block_steps;
    map.block_stride = split.block_stride;
    map.shift        = split.shift();
    for (std::size_t k = out_.total(); k < in_.total(); k *= 2)
        map.rotate_and_sum.push_back(static_cast<int>(k));
    return map;
}

LinearMap MapBuilder::finish() {
    // A ciphertext that nothing is added to, of pixels that see padding alone, is a zero of its own.
    std::vector<char> reached(out_.ciphertexts);
    for_each([&](uint32_t sum, std::size_t) { reached[sum / in_.ciphertexts] = 1; });
    for (int j = 0; j < out_.ciphertexts; ++j)
        if (!reached[j]) {
            patterns_.push_back({});
            join(static_cast<uint32_t>(patterns_.size() - 1), j * static_cast<int64_t>(out_.period), 0, 0.0);
        }
    std::vector<StepPlace> places;
    LinearMap map = steps(places);
    if (shape_only_) {
        map.present.assign(map.diagonals(), 0);
        for_each([&](uint32_t sum, std::size_t distance) { map.present[diagonal_of(map, places, sum, distance)] = 1; });
        map.write = [](std::size_t, std::span<double>) { throw Error(ErrorKind::kPlan, "a linear map of a shape alone has no weights"); };
        seen_.assign(seen_.size(), {});
        patterns_.clear();
        return map;
    }
    const auto m     = static_cast<int>(modulus());
    const auto index = [&](const Term& t) { return diagonal_of(map, places, t.sum, t.distance & (m - 1)); };
    const auto entries = std::make_shared<Entries>();
    entries->period    = total_;
    entries->patterns  = std::move(patterns_);
    entries->start.assign(map.diagonals() + 1, 0);
    for (const auto& t : terms_)
        ++entries->start[index(t) + 1];
    for (std::size_t i = 1; i < entries->start.size(); ++i)
        entries->start[i] += entries->start[i - 1];
    entries->entries.resize(terms_.size());
    auto next = entries->start;
    for (const auto& t : terms_) {
        const auto& place = places[t.distance & (m - 1)];
        long from         = t.from;
        if (!rotated_) {  // the part of the input's period that this rotation reaches the input from
            const auto left = static_cast<std::size_t>(t.distance - place.rotation) & (in_.period - 1);
            from += out_.total() < in_.total() ? static_cast<long>(left) : 0;
        }
        const auto corner = static_cast<uint32_t>(from + place.giant_rotation) & static_cast<uint32_t>(total_ - 1);
        entries->entries[next[index(t)]++] = {t.weight, corner, t.pattern};
    }
    terms_ = {};

    std::vector<char> nonzero(map.diagonals()), possible(map.diagonals());
    parallel_for(map.diagonals(), [&](std::size_t i) {
        const auto of = entries->of(i);
        possible[i]   = !of.empty();
        nonzero[i]    = std::any_of(of.begin(), of.end(), [](const Entry& e) { return e.weight != 0; });
    });
    map.keep(nonzero, possible);
    map.write = [entries](std::size_t diagonal, std::span<double> zeros) { entries->write(diagonal, zeros); };
    return map;
}

}  // namespace fheinfer
