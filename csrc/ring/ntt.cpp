#include "ring/ntt.h"

#include <bit>

#include "base/error.h"

namespace fheinfer::ring {

namespace {

std::size_t reverse_bits(std::size_t i, int bits) {
    std::size_t r = 0;
    for (int b = 0; b < bits; ++b, i >>= 1)
        r = r << 1 | (i & 1);
    return r;
}

Ntt::Table table(std::size_t n, const Modulus& m, uint64_t root) {
    Ntt::Table t;
    t.value.resize(n);
    t.quotient64.resize(n);
    t.quotient52.resize(n);
    const int bits = std::countr_zero(n);
    uint64_t power = 1;
    for (std::size_t i = 0; i < n; ++i, power = m.multiply(power, root)) {
        const std::size_t at = reverse_bits(i, bits);
        const Factor f(power, m);
        t.value[at]      = f.value;
        t.quotient64[at] = f.quotient64;
        t.quotient52[at] = f.quotient52;
    }
    return t;
}

}  // namespace

Ntt::Ntt(std::size_t n, const Modulus& m, uint64_t psi) : n_(n), m_(m), psi_(psi) {
    if (!std::has_single_bit(n) || n < 16 || m.p >> kMaxPrimeBits || m.power(psi, n) != m.p - 1)
        throw Error(ErrorKind::kPlan, "no negacyclic transform of this size and root");
    powers_         = table(n, m, psi);
    inverse_powers_ = table(n, m, m.inverse(psi));
    inverse_n_      = Factor(m.inverse(m.reduce(static_cast<uint64_t>(n))), m);
    last_over_n_    = Factor(m.multiply(inverse_powers_.value[1], inverse_n_.value), m);
}

// Cooley-Tukey butterflies with values below 4p between stages (Harvey, arXiv 1205.2926).
void Ntt::forward(uint64_t* x) const {
    const uint64_t p = m_.p, twice = 2 * p;
    for (std::size_t groups = 1, half = n_ / 2; groups < n_; groups *= 2, half /= 2) {
        for (std::size_t g = 0; g < groups; ++g) {
            const uint64_t w = powers_.value[groups + g], q = powers_.quotient64[groups + g];
            uint64_t* lo = x + 2 * g * half;
            uint64_t* hi = lo + half;
            for (std::size_t i = 0; i < half; ++i) {
                const uint64_t u = lo[i] >= twice ? lo[i] - twice : lo[i];
                const uint64_t v = hi[i] * w - static_cast<uint64_t>((uint128{hi[i]} * q) >> 64) * p;
                lo[i]            = u + v;
                hi[i]            = u + twice - v;
            }
        }
    }
    for (std::size_t i = 0; i < n_; ++i) {
        const uint64_t v = x[i] >= twice ? x[i] - twice : x[i];
        x[i]             = v >= p ? v - p : v;
    }
}

// Gentleman-Sande butterflies with values below 2p between stages.
void Ntt::inverse(uint64_t* x) const {
    const uint64_t p = m_.p, twice = 2 * p;
    for (std::size_t groups = n_ / 2, half = 1; groups > 1; groups /= 2, half *= 2) {
        for (std::size_t g = 0; g < groups; ++g) {
            const uint64_t w = inverse_powers_.value[groups + g], q = inverse_powers_.quotient64[groups + g];
            uint64_t* lo = x + 2 * g * half;
            uint64_t* hi = lo + half;
            for (std::size_t i = 0; i < half; ++i) {
                const uint64_t s = lo[i] + hi[i], d = lo[i] + twice - hi[i];
                lo[i] = s >= twice ? s - twice : s;
                hi[i] = d * w - static_cast<uint64_t>((uint128{d} * q) >> 64) * p;
            }
        }
    }
    for (std::size_t i = 0; i < n_ / 2; ++i) {
        const uint64_t s = x[i] + x[i + n_ / 2], d = x[i] + twice - x[i + n_ / 2];
        x[i]          = inverse_n_.multiply(s, m_);
        x[i + n_ / 2] = last_over_n_.multiply(d, m_);
    }
}

}  // namespace fheinfer::ring
