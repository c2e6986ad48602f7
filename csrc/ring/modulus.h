// Arithmetic modulo one prime below 2^50. Residues are canonical (below the prime) wherever they are stored.
#pragma once

#include <cstdint>

namespace fheinfer::ring {

__extension__ using uint128 = unsigned __int128;

// So that 4p fits 52-bit multipliers with lazy reduction.
inline constexpr int kMaxPrimeBits = 50;

// A prime, and what division by it needs.
struct Modulus {
    uint64_t p         = 0;
    uint64_t inverse64 = 0;  // floor(2^64 / p)
    uint64_t inverse52 = 0;  // floor(2^52 / p)
    uint64_t r64       = 0;  // 2^64 mod p
    uint64_t r64_64    = 0;  // floor(r64 * 2^64 / p)
    uint64_t r52       = 0;  // 2^52 mod p
    uint64_t r52_52    = 0;  // floor(r52 * 2^52 / p)

    Modulus() = default;
    explicit Modulus(uint64_t prime)
        : p(prime),
          inverse64(static_cast<uint64_t>((uint128{1} << 64) / prime)),
          inverse52((uint64_t{1} << 52) / prime),
          r64(static_cast<uint64_t>((uint128{1} << 64) % prime)),
          r64_64(static_cast<uint64_t>((uint128{r64} << 64) / prime)),
          r52((uint64_t{1} << 52) % prime),
          r52_52(static_cast<uint64_t>((uint128{r52} << 52) / prime)) {}

    uint64_t reduce(uint64_t x) const {
        x -= static_cast<uint64_t>((uint128{x} * inverse64) >> 64) * p;
        return x >= p ? x - p : x;
    }
    uint64_t reduce(uint128 x) const {
        const auto hi = static_cast<uint64_t>(x >> 64), lo = static_cast<uint64_t>(x);
        uint64_t r = hi * r64 - static_cast<uint64_t>((uint128{hi} * r64_64) >> 64) * p;  // below 2p
        r += lo - static_cast<uint64_t>((uint128{lo} * inverse64) >> 64) * p;             // below 4p
        r = r >= 2 * p ? r - 2 * p : r;
        return r >= p ? r - p : r;
    }
    uint64_t add(uint64_t x, uint64_t y) const {
        const uint64_t s = x + y;
        return s >= p ? s - p : s;
    }
    uint64_t subtract(uint64_t x, uint64_t y) const {
        return x >= y ? x - y : x + p - y;
    }
    uint64_t multiply(uint64_t x, uint64_t y) const {
        return reduce(uint128{x} * y);
    }
    uint64_t power(uint64_t x, uint64_t exponent) const {
        uint64_t y = 1;
        for (; exponent; exponent >>= 1, x = multiply(x, x))
            if (exponent & 1)
                y = multiply(y, x);
        return y;
    }
    uint64_t inverse(uint64_t x) const {
        return power(x, p - 2);
    }
    uint64_t from_signed(int64_t x) const {
        return x >= 0 ? reduce(static_cast<uint64_t>(x)) : subtract(0, reduce(static_cast<uint64_t>(-x)));
    }
};

// A constant to multiply many residues by (Shoup's method): the constant and its quotients by the prime, at both word
// sizes.
struct Factor {
    uint64_t value      = 0;
    uint64_t quotient64 = 0;  // floor(value * 2^64 / p)
    uint64_t quotient52 = 0;  // floor(value * 2^52 / p)

    Factor() = default;
    Factor(uint64_t v, const Modulus& m)
        : value(v),
          quotient64(static_cast<uint64_t>((uint128{v} << 64) / m.p)),
          quotient52(static_cast<uint64_t>((uint128{v} << 52) / m.p)) {}

    // In [0, 2p) for any x.
    uint64_t multiply_lazy(uint64_t x, const Modulus& m) const {
        return x * value - static_cast<uint64_t>((uint128{x} * quotient64) >> 64) * m.p;
    }
    uint64_t multiply(uint64_t x, const Modulus& m) const {
        const uint64_t r = multiply_lazy(x, m);
        return r >= m.p ? r - m.p : r;
    }
};

}  // namespace fheinfer::ring
