// Client and server on a small ring, without OpenFHE: keys, encryption and decryption are made here by hand.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/error.h"
#include "ckks/encoder.h"
#include "ckks/key_generation.h"
#include "evaluator/native.h"
#include "ring/pointwise.h"

namespace fheinfer::test {

using namespace fheinfer::ckks;

constexpr std::size_t kN = 512, kSlots = 16;
constexpr int kLevels = 7, kCts = 2, kStc = 2, kTop = kLevels + kCts + kEvalModDepth;

inline int failures = 0;
inline std::mt19937_64 random_bits(1);

inline void check(bool right, const std::string& what) {
    if (right)
        return;
    std::printf("%s: %s is wrong\n", instruction_set_name(), what.c_str());
    ++failures;
}

template <typename F>
void refused(const F& f, ErrorKind kind, const std::string& what) {
    try {
        f();
    }
    catch (const Error& e) {
        check(e.kind() == kind, what + " (" + e.what() + ")");
        return;
    }
    check(false, what + ", which is accepted,");
}

inline bool is_prime(uint64_t p) {
    const ring::Modulus m(p);
    for (uint64_t base : {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37}) {  // decide for every number below 2^64
        uint64_t odd = p - 1;
        while (odd % 2 == 0)
            odd /= 2;
        uint64_t x = m.power(base, odd);
        bool prime = x == 1 || x == p - 1;
        for (uint64_t e = odd; !prime && e < (p - 1) / 2; e *= 2) {
            x     = m.multiply(x, x);
            prime = x == p - 1;
        }
        if (!prime)
            return false;
    }
    return true;
}

// The greatest primes below 2^bits with a 2n-th root of unity, and such a root.
inline std::vector<Prime> primes(int bits, std::size_t count) {
    std::vector<Prime> out;
    for (uint64_t p = (uint64_t{1} << bits) - 2 * kN + 1; out.size() < count; p -= 2 * kN) {
        if (!is_prime(p))
            continue;
        const ring::Modulus m(p);
        for (uint64_t g = 2;; ++g)
            if (const uint64_t psi = m.power(g, (p - 1) / (2 * kN)); m.power(psi, kN) == p - 1) {
                out.push_back({p, psi});
                break;
            }
    }
    return out;
}

inline std::shared_ptr<const Chain> chain() {
    auto q          = primes(49, 1);
    const auto rest = primes(47, kTop);
    q.insert(q.end(), rest.begin(), rest.end());
    return std::make_shared<Chain>(kN, q, primes(50, 10), 2);
}

inline SmallPoly small(int largest) {
    SmallPoly out(kN);
    for (auto& v : out)
        v = static_cast<int64_t>(random_bits() % (2 * largest + 1)) - largest;
    return out;
}

inline Seed seed() {
    Seed out;
    for (auto& byte : out)
        byte = static_cast<uint8_t>(random_bits());
    return out;
}

inline std::vector<double> values() {
    std::vector<double> out(kSlots);
    for (auto& v : out)
        v = std::uniform_real_distribution<double>(-1, 1)(random_bits);
    return out;
}

// The client: a ternary secret and what is made of it.
class Client {
public:
    explicit Client(const Chain& chain) : chain_(chain), secret_(small(1)), evaluated_(evaluate(chain, secret_)) {}

    SwitchingKey key(const Poly& from, const Poly& to, std::size_t limbs, std::size_t specials, bool one_digit = false) const {
        return switching_key(chain_, from, to, limbs, specials, one_digit, seed(), [] { return small(4); });
    }
    SwitchingKey automorphism_key(uint64_t exponent, std::size_t limbs) const {
        uint64_t inverse = 1;
        while (inverse * exponent % (2 * kN) != 1)
            inverse += 2;
        const auto to = evaluate(chain_, ckks::automorphism(secret_, inverse));
        return key(evaluated_, to, limbs, chain_.specials_for(limbs));
    }
    SwitchingKey relinearisation_key(std::size_t limbs) const {
        SecretPoly square(evaluated_.limbs(), kN);
        for (std::size_t i = 0; i < square.limbs(); ++i)
            ring::multiply(square[i], evaluated_[i], evaluated_[i], kN, chain_.modulus(i));
        return key(square, evaluated_, limbs, chain_.specials_for(limbs));
    }
    std::pair<SwitchingKey, SwitchingKey> encapsulation_keys() const {
        SmallPoly sparse(kN, 0);
        for (int k = 0; k < kSparseWeight; ++k)
            sparse[k * (kN / kSparseWeight) + random_bits() % (kN / kSparseWeight)] = random_bits() % 2 ? 1 : -1;
        const auto to = evaluate(chain_, sparse);
        return {key(evaluated_, to, 1, 1), key(to, evaluated_, chain_.q_count(), 1, true)};
    }
    ckks::Ciphertext encrypt(const std::vector<double>& x, int level, double scale) const {
        const std::size_t limbs = static_cast<std::size_t>(level) + 1;
        const auto m            = transform(chain_, encode(std::span<const double>(x), scale), limbs, 0);
        const auto noise        = evaluate(chain_, small(4));
        ckks::Ciphertext out{Poly(limbs, kN), Poly(limbs, kN), scale};
        for (std::size_t i = 0; i < limbs; ++i) {
            const auto& p = chain_.modulus(i);
            for (std::size_t k = 0; k < kN; ++k) {
                out.c1[i][k] = random_bits() % p.p;
                out.c0[i][k] = p.subtract(p.add(m[i][k / (kN / m.n())], noise[i][k]), p.multiply(out.c1[i][k], evaluated_[i][k]));
            }
        }
        return out;
    }
    // Modulo q_0, which is larger than any message here.
    std::vector<double> decrypt(const ckks::Ciphertext& x) const {
        const auto& p = chain_.modulus(0);
        Poly sum(1, kN);
        for (std::size_t k = 0; k < kN; ++k)
            sum[0][k] = p.add(x.c0[0][k], p.multiply(x.c1[0][k], evaluated_[0][k]));
        chain_.ntt(0).inverse(sum[0]);
        std::vector<double> out(kSlots);
        uint64_t power = 1;  // 5^j
        for (auto& slot : out) {
            for (std::size_t k = 0; k < kN; ++k) {
                const double c = sum[0][k] > p.p / 2 ? -static_cast<double>(p.p - sum[0][k]) : static_cast<double>(sum[0][k]);
                slot += c / x.scale * std::cos(std::numbers::pi * static_cast<double>(power * k % (2 * kN)) / kN);
            }
            power = power * 5 % (2 * kN);
        }
        return out;
    }

private:
    const Chain& chain_;
    SmallPoly secret_;
    SecretPoly evaluated_;
};

inline double error(const std::vector<double>& x, const std::vector<double>& y) {
    double worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i)
        worst = std::max(worst, std::isfinite(y[i]) ? std::abs(x[i] - y[i]) : 1e9);
    return worst;
}

template <typename F>
std::vector<double> each(const F& f) {
    std::vector<double> out(kSlots);
    for (std::size_t i = 0; i < kSlots; ++i)
        out[i] = f(i);
    return out;
}

struct Bench {
    std::shared_ptr<const Chain> chain = test::chain();
    std::vector<double> scales         = std::vector<double>(kTop + 1);
    Client client{*chain};
    BootstrapParameters bootstrap{kSlots, kCts, kStc};

    explicit Bench(KeyPolicy keys) {
        bootstrap.keys = keys;
        scales[kTop] = std::ldexp(1.0, 47);
        for (int level = kTop; level > 0; --level)
            scales[level - 1] = scales[level] * scales[level] / static_cast<double>(chain->modulus(level).p);
    }
    NativeEvaluator evaluator() const {
        return {chain, scales, {kTop, kLevels, kStc}, kSlots, bootstrap};
    }
    CiphertextPtr encrypt(const NativeEvaluator& e, const std::vector<double>& x, int level) const {
        return e.wrap(client.encrypt(x, level, scales[level]));
    }
    std::vector<double> decrypt(const CiphertextPtr& x) const {
        return client.decrypt(NativeEvaluator::get(x));
    }
    void close(const CiphertextPtr& y, const std::vector<double>& expected, int bits, const std::string& what) const {
        check(error(expected, decrypt(y)) < std::ldexp(1.0, -bits), what);
        const auto& ct = NativeEvaluator::get(y);
        check(std::abs(ct.scale / scales[chain->level(ct.c0)] - 1) < 1e-6, "the scale of " + what);
    }
};

}  // namespace fheinfer::test
