#include "ring/ntt.h"

#include <bit>

#include "base/cpu.h"
#include "base/error.h"
#include "ring/bit_reversal.h"
#include "ring/ntt_kernels.h"

namespace fheinfer::ring {

namespace {

Ntt::Table table(std::size_t n, const Modulus& m, uint64_t root) {
    Ntt::Table t;
    t.value.resize(n);
    t.quotient52.resize(n);
    const int bits = std::countr_zero(n);
    uint64_t power = 1;
    for (std::size_t i = 0; i < n; ++i, power = m.multiply(power, root)) {
        const std::size_t at = reverse_bits(i, bits);
        const Factor f(power, m);
        t.value[at]      = f.value;
        t.quotient52[at] = f.quotient52;
    }
    return t;
}

// Cooley-Tukey butterflies with values below 4p between stages (Harvey, arXiv 1205.2926).
void forward_portable(uint64_t* x, const Ntt& ntt) {
    const std::size_t n = ntt.size();
    const uint64_t p = ntt.modulus().p, twice = 2 * p;
    for (std::size_t groups = 1, half = n / 2; groups < n; groups *= 2, half /= 2) {
        for (std::size_t g = 0; g < groups; ++g) {
            const uint64_t w = ntt.powers().value[groups + g], q = ntt.powers().quotient52[groups + g];
            uint64_t* lo = x + 2 * g * half;
            uint64_t* hi = lo + half;
            for (std::size_t i = 0; i < half; ++i) {
                const uint64_t u = lo[i] >= twice ? lo[i] - twice : lo[i];
                const uint64_t v = hi[i] * w - static_cast<uint64_t>((uint128{hi[i]} * q) >> 52) * p;
                lo[i]            = u + v;
                hi[i]            = u + twice - v;
            }
        }
    }
    for (std::size_t i = 0; i < n; ++i) {
        const uint64_t v = x[i] >= twice ? x[i] - twice : x[i];
        x[i]             = v >= p ? v - p : v;
    }
}

// Gentleman-Sande butterflies with values below 2p between stages.
void inverse_portable(uint64_t* x, const Ntt& ntt) {
    const std::size_t n = ntt.size();
    const Modulus& m    = ntt.modulus();
    const uint64_t p = m.p, twice = 2 * p;
    for (std::size_t groups = n / 2, half = 1; groups > 1; groups /= 2, half *= 2) {
        for (std::size_t g = 0; g < groups; ++g) {
            const uint64_t w = ntt.inverse_powers().value[groups + g], q = ntt.inverse_powers().quotient52[groups + g];
            uint64_t* lo = x + 2 * g * half;
            uint64_t* hi = lo + half;
            for (std::size_t i = 0; i < half; ++i) {
                const uint64_t s = lo[i] + hi[i], d = lo[i] + twice - hi[i];
                lo[i] = s >= twice ? s - twice : s;
                hi[i] = d * w - static_cast<uint64_t>((uint128{d} * q) >> 52) * p;
            }
        }
    }
    for (std::size_t i = 0; i < n / 2; ++i) {
        const uint64_t s = x[i] + x[i + n / 2], d = x[i] + twice - x[i + n / 2];
        x[i]         = ntt.inverse_n().multiply(s, m);
        x[i + n / 2] = ntt.last_over_n().multiply(d, m);
    }
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

// The first half is the block of powers[2], and what blocks k and k + 1 are to it, 2k .. are to the whole.
Ntt Ntt::first_half(const Ntt& whole) {
    Ntt out;
    out.n_   = whole.n_ / 2;
    out.m_   = whole.m_;
    out.psi_ = whole.psi_;
    out.powers_.value.resize(out.n_);
    out.powers_.quotient52.resize(out.n_);
    for (std::size_t groups = 1; groups < out.n_; groups *= 2)
        for (std::size_t g = 0; g < groups; ++g) {
            out.powers_.value[groups + g]      = whole.powers_.value[2 * groups + g];
            out.powers_.quotient52[groups + g] = whole.powers_.quotient52[2 * groups + g];
        }
    return out;
}

void Ntt::forward(uint64_t* x) const {
#if defined(__x86_64__)
    if (n_ >= kLeastVector && instruction_set() == InstructionSet::kAvx512)
        return forward_avx512(x, *this);
    if (n_ >= kLeastVector && instruction_set() == InstructionSet::kAvx2)
        return forward_avx2(x, *this);
#endif
    forward_portable(x, *this);
}

void Ntt::inverse(uint64_t* x) const {
#if defined(__x86_64__)
    if (n_ >= kLeastVector && instruction_set() == InstructionSet::kAvx512)
        return inverse_avx512(x, *this);
    if (n_ >= kLeastVector && instruction_set() == InstructionSet::kAvx2)
        return inverse_avx2(x, *this);
#endif
    inverse_portable(x, *this);
}

}  // namespace fheinfer::ring
