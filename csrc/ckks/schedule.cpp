#include "ckks/schedule.h"

#include <algorithm>
#include <atomic>

namespace fheinfer::ckks {

namespace {

constexpr std::size_t kLimit            = 1'500'000'000;
constexpr std::size_t kCoefficientBytes = std::size_t{256} << 20;  // of a chunk, and a quarter of the bound
constexpr std::size_t kLeastTerms       = 4;

std::atomic<std::size_t> limit{kLimit};

std::size_t divided_up(std::size_t a, std::size_t b) {
    return (a + b - 1) / b;
}

std::size_t limb_bytes(const MapSizes& s) {
    return s.n * sizeof(uint64_t);
}

// Digits, and what an inner product and its division hold.
std::size_t key_switch_bytes(const MapSizes& s) {
    return ((s.digits + 3) * (s.limbs + s.specials) + 2 * s.limbs) * limb_bytes(s);
}

// Ciphertexts that the baby steps of one input take: a rotation by nothing is the input itself.
std::size_t made(const LinearMap& map) {
    const auto rotated = [](const std::vector<int>& ks) {
        return ks.size() - static_cast<std::size_t>(std::count(ks.begin(), ks.end(), 0));
    };
    return rotated(map.first) + map.first.size() * rotated(map.second);
}

std::size_t chunk(const LinearMap& map) {
    return std::min(static_cast<std::size_t>(map.giant_steps()), kChunk);
}

// With the coefficients of so many terms of each sum, which take so many bytes.
Schedule with_terms(const LinearMap& map, const MapSizes& sizes, std::size_t terms, std::size_t coefficients, std::size_t bound) {
    const auto giants = static_cast<std::size_t>(map.giant_steps()), outputs = static_cast<std::size_t>(map.outputs);
    const auto inputs = static_cast<std::size_t>(map.inputs);
    // Two of a Horner sum and one that is rotated are there beside baby steps and sums.
    const std::size_t ciphertext = 2 * sizes.limbs * limb_bytes(sizes), fixed = 3 * ciphertext + coefficients + key_switch_bytes(sizes);
    const std::size_t room       = bound > fixed ? (bound - fixed) / ciphertext : 0;
    const std::size_t of_one     = made(map);
    const auto left              = [&](std::size_t group) { return room > group * of_one ? room - group * of_one : 0; };
    const auto of                = [&](std::size_t group, std::size_t sums) {
        sums = std::clamp(sums, chunk(map), outputs * giants);
        sums = sums < giants ? sums : sums / giants * giants;
        const std::size_t passes = group == inputs ? 1 : sums < giants ? outputs * divided_up(giants, sums) : divided_up(outputs, sums / giants);
        return Schedule{static_cast<int>(group), sums, terms, passes, fixed + (group * of_one + sums) * ciphertext};
    };
    const auto together = of(inputs, 0), smallest = of(1, left(1));
    if (inputs == 1 || together.bytes <= bound)
        return together;
    for (std::size_t group = inputs - 1; group > 1; --group)
        if (const auto some = of(group, left(group)); some.passes == smallest.passes && some.bytes <= bound)
            return some;
    return smallest;
}

}  // namespace

std::size_t working_limit() {
    return limit;
}

void set_working_limit(std::size_t bytes) {
    limit = bytes;
}

Schedule schedule(const LinearMap& map, const MapSizes& sizes, bool kept, std::size_t bound) {
    if (kept)
        return with_terms(map, sizes, map.terms(), 0, bound);
    const std::size_t each = 2 * std::max<std::size_t>(map.period, 8) * sizeof(int64_t) * chunk(map);
    const std::size_t least = std::min(kLeastTerms, map.terms());
    for (std::size_t terms : {std::clamp(std::min(kCoefficientBytes, bound / 4) / each, least, map.terms()), least})
        if (const auto out = with_terms(map, sizes, terms, terms * each, bound); out.bytes <= bound || terms == least)
            return out;
    return {};
}

std::size_t working_bytes(const LinearMap& map, const MapSizes& sizes, std::size_t bound) {
    if (map.hoisting == Hoisting::kSingle)
        return schedule(map, sizes, false, bound).bytes;
    const std::size_t all = (sizes.limbs + sizes.specials) * limb_bytes(sizes), parts = map.inputs * map.first.size();
    const std::size_t of_diagonals = map.diagonals() * 2 * std::max<std::size_t>(map.period, 8) * sizeof(int64_t);
    return parts * (sizes.digits * all + 2 * sizes.limbs * limb_bytes(sizes)) + 2 * map.outputs * map.giant_steps() * all + of_diagonals +
           2 * map.terms() * limb_bytes(sizes) + key_switch_bytes(sizes);
}

}  // namespace fheinfer::ckks
