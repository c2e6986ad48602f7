#include "ckks/encoder.h"

#include <bit>
#include <cmath>
#include <memory>
#include <mutex>
#include <numbers>

#include "base/error.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

namespace {

constexpr double kLargest = 4.6e18;  // 2^62

// Factors of every stage for one slot count.
const std::vector<std::vector<Complex>>& stages(std::size_t slots) {
    static std::mutex mutex;
    static std::map<std::size_t, std::unique_ptr<std::vector<std::vector<Complex>>>> made;
    const std::lock_guard lock(mutex);
    auto& out = made[slots];
    if (!out) {
        out = std::make_unique<std::vector<std::vector<Complex>>>();
        for (std::size_t length = 2; length <= slots; length *= 2)
            out->push_back(stage_factors(slots, length));
    }
    return *out;
}

void bit_reverse(std::vector<Complex>& v) {
    const std::size_t n = v.size();
    for (std::size_t i = 1, j = 0; i < n; ++i) {
        std::size_t bit = n >> 1;
        for (; j & bit; bit >>= 1)
            j ^= bit;
        j ^= bit;
        if (i < j)
            std::swap(v[i], v[j]);
    }
}

}  // namespace

std::vector<Complex> stage_factors(std::size_t slots, std::size_t length) {
    (void)slots;
    std::vector<Complex> w(length / 2);
    const std::size_t order = 4 * length;
    std::size_t power = 1;  // 5^j modulo order
    for (auto& factor : w) {
        factor = std::polar(1.0, 2 * std::numbers::pi * static_cast<double>(power) / static_cast<double>(order));
        power  = power * 5 % order;
    }
    return w;
}

std::vector<int64_t> encode(std::span<const Complex> values, double scale) {
    const std::size_t slots = values.size();
    std::vector<Complex> v(values.begin(), values.end());
    const auto& factors = stages(slots);
    for (std::size_t length = slots, s = factors.size(); length >= 2; length /= 2) {
        const auto& w          = factors[--s];
        const std::size_t half = length / 2;
        for (std::size_t block = 0; block < slots; block += length)
            for (std::size_t j = 0; j < half; ++j) {
                const Complex lo = v[block + j], hi = v[block + j + half];
                const Complex d = lo - hi;
                v[block + j]    = lo + hi;
                // d * conj(w), written out: std::complex multiplication checks for infinities
                v[block + j + half] = {d.real() * w[j].real() + d.imag() * w[j].imag(),
                                       d.imag() * w[j].real() - d.real() * w[j].imag()};
            }
    }
    bit_reverse(v);
    const double factor = scale / static_cast<double>(slots);
    std::vector<int64_t> out(2 * slots);
    bool fits = true;
    for (std::size_t j = 0; j < slots; ++j) {
        const double re = v[j].real() * factor, im = v[j].imag() * factor;
        fits &= std::abs(re) < kLargest && std::abs(im) < kLargest;
        if (fits) {
            out[j]         = std::llrint(re);
            out[j + slots] = std::llrint(im);
        }
    }
    if (!fits)
        throw Error(ErrorKind::kUsage, "a value too large to encode at this scale");
    return out;
}

std::vector<int64_t> encode(std::span<const double> values, double scale) {
    return encode(std::span<const Complex>(std::vector<Complex>(values.begin(), values.end())), scale);
}

ring::Poly transform(const Chain& chain, std::span<const int64_t> coefficients, std::size_t limbs, std::size_t specials) {
    const std::size_t size = coefficients.size();
    ring::Poly out(limbs + specials, size);
    for (std::size_t row = 0; row < limbs + specials; ++row) {
        const std::size_t prime = chain.prime(row, limbs);
        ring::lift(out[row], coefficients.data(), size, chain.modulus(prime));
        chain.subring_ntt(prime, size).forward(out[row]);
    }
    return out;
}

}  // namespace fheinfer::ckks
