#include "ckks/encoder.h"

#include <bit>
#include <cmath>
#include <memory>
#include <mutex>
#include <numbers>

#include "base/cpu.h"
#include "base/error.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

namespace {

constexpr double kLargest = 4.6e18;  // 2^62

// Factors of every stage for one slot count, real parts first.
const std::vector<std::vector<double>>& stages(std::size_t slots) {
    static std::mutex mutex;
    static std::map<std::size_t, std::unique_ptr<std::vector<std::vector<double>>>> made;
    const std::lock_guard lock(mutex);
    auto& out = made[slots];
    if (!out) {
        out = std::make_unique<std::vector<std::vector<double>>>();
        for (std::size_t length = 2; length <= slots; length *= 2) {
            const auto w = stage_factors(length);
            auto& split  = out->emplace_back();
            for (const auto& factor : w)
                split.push_back(factor.real());
            for (const auto& factor : w)
                split.push_back(factor.imag());
        }
    }
    return *out;
}

// Positions by bit reversal, for one slot count.
const std::vector<uint32_t>& reversed(std::size_t n) {
    static std::mutex mutex;
    static std::map<std::size_t, std::unique_ptr<std::vector<uint32_t>>> made;
    const std::lock_guard lock(mutex);
    auto& out = made[n];
    if (!out) {
        out = std::make_unique<std::vector<uint32_t>>(n);
        for (std::size_t i = 1; i < n; ++i)
            (*out)[i] = (*out)[i / 2] / 2 | (i & 1 ? static_cast<uint32_t>(n / 2) : 0);
    }
    return *out;
}

// One stage of the inverse transform: (lo, hi) -> (lo + hi, (lo - hi) conj(w)) in every block. The compiler makes vectors
// of it, as wide as the target allows; without fused multiplication (CMakeLists.txt), so that all give the same bits.
[[gnu::always_inline]] inline void inverse_stage_body(double* re, double* im, const double* w, std::size_t slots, std::size_t half) {
    for (std::size_t block = 0; block < slots; block += 2 * half) {
        double *re0 = re + block, *re1 = re0 + half, *im0 = im + block, *im1 = im0 + half;
        const double *wr = w, *wi = w + half;
#pragma GCC ivdep
        for (std::size_t j = 0; j < half; ++j) {
            const double dr = re0[j] - re1[j], di = im0[j] - im1[j];
            re0[j] += re1[j];
            im0[j] += im1[j];
            re1[j] = dr * wr[j] + di * wi[j];
            im1[j] = di * wr[j] - dr * wi[j];
        }
    }
}

void inverse_stage_portable(double* re, double* im, const double* w, std::size_t slots, std::size_t half) {
    inverse_stage_body(re, im, w, slots, half);
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) void inverse_stage_avx2(double* re, double* im, const double* w, std::size_t slots, std::size_t half) {
    inverse_stage_body(re, im, w, slots, half);
}
__attribute__((target("avx512f"))) void inverse_stage_avx512(double* re, double* im, const double* w, std::size_t slots,
                                                             std::size_t half) {
    inverse_stage_body(re, im, w, slots, half);
}
#endif

auto inverse_stage_kernel() {
#if defined(__x86_64__)
    if (instruction_set() == InstructionSet::kAvx512)
        return inverse_stage_avx512;
    if (instruction_set() == InstructionSet::kAvx2)
        return inverse_stage_avx2;
#endif
    return inverse_stage_portable;
}

template <typename Value>
std::vector<int64_t> encode_values(std::span<const Value> values, double scale) {
    const std::size_t slots = values.size();
    std::vector<double> re(slots), im(slots);
    for (std::size_t i = 0; i < slots; ++i) {
        re[i] = std::real(values[i]);
        im[i] = std::imag(values[i]);
    }
    const auto& factors = stages(slots);
    const auto kernel   = inverse_stage_kernel();
    for (std::size_t half = slots / 2, s = factors.size(); half >= 1; half /= 2)
        kernel(re.data(), im.data(), factors[--s].data(), slots, half);

    const auto& order   = reversed(slots);
    const double factor = scale / static_cast<double>(slots);
    std::vector<int64_t> out(2 * slots);
    bool fits = true;
    for (std::size_t j = 0; j < slots; ++j) {
        const double r = re[order[j]] * factor, i = im[order[j]] * factor;
        fits = fits && std::abs(r) < kLargest && std::abs(i) < kLargest;
        if (fits) {
            out[j]         = std::llrint(r);
            out[j + slots] = std::llrint(i);
        }
    }
    if (!fits)
        throw Error(ErrorKind::kUsage, "a value too large to encode at this scale");
    return out;
}

}  // namespace

std::vector<Complex> stage_factors(std::size_t length) {
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
    return encode_values(values, scale);
}

std::vector<int64_t> encode(std::span<const double> values, double scale) {
    return encode_values(values, scale);
}

ring::Poly transform(const Chain& chain, std::span<const int64_t> coefficients, std::size_t limbs, std::size_t specials,
                     std::size_t base) {
    const std::size_t size = coefficients.size();
    ring::Poly out(limbs + specials, size, base);
    for (std::size_t row = 0; row < limbs + specials; ++row) {
        const std::size_t prime = chain.prime(row, limbs, base);
        ring::lift(out[row], coefficients.data(), size, chain.modulus(prime));
        chain.subring_ntt(prime, size).forward(out[row]);
    }
    return out;
}

}  // namespace fheinfer::ckks
