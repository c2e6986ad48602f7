#include "ckks/diagonals.h"

#include <algorithm>
#include <limits>

#include "base/parallel.h"
#include "ckks/encoder.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

using namespace ring;

namespace {

// A transform has 16 coefficients or more, so a shorter period is encoded as this many values.
constexpr std::size_t kLeastPeriod = 8;
// The least subring whose first half has a transform.
constexpr std::size_t kLeastMirrored = 32;

bool is_mirrored(std::span<const int64_t> c) {
    const std::size_t size = c.size(), half = size / 2;
    if (size < kLeastMirrored || c[half] != 0 || c[0] != static_cast<int32_t>(c[0]))
        return false;
    int64_t differences = 0, large = 0;
    for (std::size_t i = 1; i < half; ++i) {
        differences |= c[i] + c[size - i];
        large |= c[i] - static_cast<int32_t>(c[i]);
    }
    return differences == 0 && large == 0;
}

template <typename Value>
Coefficients encoded(const LinearMap& map, std::size_t index, double scale, const std::function<void(std::size_t, std::span<Value>)>& write) {
    const std::size_t period = std::max(map.period, kLeastPeriod);
    std::vector<Value> values(period);
    write(index, std::span(values).first(map.period));
    for (std::size_t i = map.period; i < period; ++i)
        values[i] = values[i - map.period];
    return Coefficients(encode(std::span<const Value>(values), scale));
}

}  // namespace

Coefficients::Coefficients(std::span<const int64_t> c) : size_(c.size()) {
    if (is_mirrored(c)) {
        half_.resize(size_ / 2 + 1);
        for (std::size_t i = 0; i < half_.size(); ++i)
            half_[i] = static_cast<int32_t>(c[i]);
    }
    else {
        whole_.assign(c.begin(), c.end());
    }
}

void Coefficients::evaluate(const Chain& chain, std::size_t prime, uint64_t* out) const {
    const auto& m = chain.modulus(prime);
    if (!mirrored()) {
        lift(out, whole_.data(), size_, m);
        chain.subring_ntt(prime, size_).forward(out);
        return;
    }
    // The first stage leaves c_i + w c_(i + half) = c_i - w c_(half - i) in the first half.
    const std::size_t half = size_ / 2;
    const auto& powers     = chain.subring_ntt(prime, size_).powers();
    const Factor w(m.subtract(0, powers.value[1]), m);
    constexpr std::size_t kBlock = 256;
    const std::size_t block      = std::min(half, kBlock);
    alignas(64) int64_t lower[kBlock], upper[kBlock];
    alignas(64) uint64_t turned[kBlock];
    for (std::size_t start = 0; start < half; start += block) {
        const int32_t *up = &half_[start], *down = &half_[half - start];
        for (std::size_t i = 0; i < block; ++i) {
            lower[i] = up[i];
            upper[i] = *(down - i);
        }
        lift(out + start, lower, block, m);
        lift(turned, upper, block, m);
        multiply(turned, turned, w, block, m);
        ring::add(out + start, out + start, turned, block, m);
    }
    chain.half_ntt(prime, size_).forward(out);
}

EncodedDiagonals::EncodedDiagonals(const Chain& chain, const LinearMap& map, const Target& target, Tier tier, const Window& window)
    : target_(target),
      tier_(tier),
      window_(window),
      sizes_(window.count()),
      coefficients_(encoded() ? 0 : window.count()),
      rows_(encoded() ? window.count() : 0) {
    parallel_for(window.count(), [&](std::size_t i) {
        const std::size_t index = window.index(i);
        if (!map.present[index])
            return;
        auto c = map.is_complex() ? ckks::encoded(map, index, target.scale, map.write_complex)
                                  : ckks::encoded(map, index, target.scale, map.write);
        sizes_[i] = {c.size(), c.mirrored()};
        if (!encoded()) {
            coefficients_[i] = std::move(c);
            return;
        }
        rows_[i] = Poly(target.all(), c.values(), target.rows.first);
        for (std::size_t row = 0; row < target.all(); ++row)
            c.evaluate(chain, chain.prime(row, target.rows.limbs, target.rows.first), rows_[i][row]);
    });
}

const uint64_t* EncodedDiagonals::row(const Chain& chain, std::size_t index, std::size_t row, uint64_t* scratch) const {
    const std::size_t i = window_.place(index);
    if (encoded())
        return rows_[i][row];
    coefficients_[i].evaluate(chain, chain.prime(row, target_.rows.limbs, target_.rows.first), scratch);
    return scratch;
}

std::size_t EncodedDiagonals::typical_values() const {
    const auto one = std::find_if(sizes_.begin(), sizes_.end(), [](const Size& s) { return s.size != 0; });
    return one == sizes_.end() ? 1 : values(window_.index(static_cast<std::size_t>(one - sizes_.begin())));
}

std::size_t EncodedDiagonals::bytes() const {
    std::size_t total = 0;
    for (const auto& c : coefficients_)
        total += c.bytes();
    for (const auto& p : rows_)
        total += p.limbs() * p.n() * sizeof(uint64_t);
    return total;
}

}  // namespace fheinfer::ckks
