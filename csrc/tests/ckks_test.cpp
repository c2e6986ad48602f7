// Our own evaluation on a small ring, without OpenFHE: keys, encryption and decryption are made here by hand. What the
// tests in Python cannot see, the sanitizers do (make sanitize).
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdio>
#include <memory>
#include <numbers>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/error.h"
#include "ckks/encoder.h"
#include "ckks/key_generation.h"
#include "ckks/payload.h"
#include "evaluator/native.h"
#include "ring/pointwise.h"

using namespace fheinfer;
using namespace fheinfer::ckks;

namespace {

constexpr std::size_t kN = 512, kSlots = 16;
constexpr int kLevels = 7, kCts = 2, kStc = 2, kTop = kLevels + kCts + kEvalModDepth;

int failures = 0;
std::mt19937_64 random_bits(1);

void check(bool right, const std::string& what) {
    if (right)
        return;
    std::printf("%s: %s is wrong\n", cpu_form_name(), what.c_str());
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

bool is_prime(uint64_t p) {
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
std::vector<Prime> primes(int bits, std::size_t count) {
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

std::shared_ptr<const Chain> chain() {
    auto q          = primes(49, 1);
    const auto rest = primes(47, kTop);
    q.insert(q.end(), rest.begin(), rest.end());
    return std::make_shared<Chain>(kN, q, primes(50, 10), 2);
}

SmallPoly small(int largest) {
    SmallPoly out(kN);
    for (auto& v : out)
        v = static_cast<int64_t>(random_bits() % (2 * largest + 1)) - largest;
    return out;
}

Seed seed() {
    Seed out;
    for (auto& byte : out)
        byte = static_cast<uint8_t>(random_bits());
    return out;
}

std::vector<double> values() {
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
        Poly square(evaluated_.limbs(), kN);
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
    Poly evaluated_;
};

double error(const std::vector<double>& x, const std::vector<double>& y) {
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
    std::shared_ptr<const Chain> chain = ::chain();
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

void test_operations(const Bench& b, NativeEvaluator& e) {
    const auto x = values(), y = values();
    for (int level : {1, 2, 7, kTop}) {
        const auto ct = b.encrypt(e, x, level), other = b.encrypt(e, y, level);
        b.close(ct, x, 27, "encryption");
        b.close(e.add(ct, other), each([&](auto i) { return x[i] + y[i]; }), 26, "a sum");
        b.close(e.add_plain(ct, y), each([&](auto i) { return x[i] + y[i]; }), 26, "a sum with clear values");
        b.close(e.multiply(ct, ct), each([&](auto i) { return x[i] * x[i]; }), 24, "a square");
        b.close(e.drop_to(ct, 0), x, 26, "a lower ciphertext");
        for (std::size_t period = 1; period <= kSlots; period *= 2)
            b.close(e.multiply_plain(ct, std::span(y).first(period)), each([&](auto i) { return x[i] * y[i % period]; }), 24,
                    "a product with clear values");
        const int ks[]     = {0, 1, 3};
        const auto rotated = e.rotate_many(ct, ks);
        for (std::size_t k = 0; k < 3; ++k)
            b.close(rotated[k], each([&](auto i) { return x[(i + ks[k]) % kSlots]; }), 26, "a rotation");
    }
    for (int degree : {1, 2, 5, 13, 27, 59}) {
        std::vector<double> c(degree + 1);
        for (auto& v : c)
            v = std::uniform_real_distribution<double>(-1, 1)(random_bits) / degree;
        const auto series = each([&](auto i) {
            double sum = 0;
            for (int k = 0; k <= degree; ++k)
                sum += c[k] * std::cos(k * std::acos(x[i]));
            return sum;
        });
        b.close(e.chebyshev(b.encrypt(e, x, kTop), c), series, 18, "a series");
    }
    for (int level : {kStc, kStc + 1, kTop}) {
        const auto raised = e.bootstrap(b.encrypt(e, x, level));
        check(e.level(raised) == kLevels, "the level of a bootstrap");
        b.close(raised, x, 12, "a bootstrap");
        b.close(e.multiply(raised, raised), each([&](auto i) { return x[i] * x[i]; }), 11, "a square after it");
    }
}

// Every way of splitting the same matrix is that matrix: out[i] = sum_k diagonals[k][i] x[i + k].
void test_matrices(const Bench& b) {
    constexpr int kLevel = 6;
    const int n          = static_cast<int>(kSlots);
    const auto run       = [&](const Steps& steps, const std::string& what) {
        const int count = steps.baby * steps.giant;
        Diagonals diagonals;
        for (int k = 0; k < count; ++k)
            if (k % 5 != 3 || count == 1)  // some are zero
                for (double v : values())
                    diagonals[(steps.start + k) * steps.stride].push_back(v / count);
        Keys keys;
        for (int k : steps.rotations())
            if (const auto exponent = ring::rotation_exponent(kN, k); !keys.has(exponent, kLevel + 1))
                keys.add(exponent, b.client.automorphism_key(exponent, kLevel + 1));
        const auto x        = values();
        const auto expected = each([&](auto i) {
            double sum = 0;
            for (const auto& [k, d] : diagonals)
                sum += d[i].real() * x[((static_cast<int>(i) + k) % n + n) % n];
            return sum;
        });
        const std::size_t specials = b.chain->specials_for(kLevel + 1);
        const Target target{{0, kLevel + 1}, specials, b.scales[kLevel]};
        const auto map       = matrix_map(diagonals, steps);
        const auto ct        = b.client.encrypt(x, kLevel, b.scales[kLevel]);
        const ckks::Ciphertext* xs[] = {&ct};
        const auto y = std::move(ckks::apply(*b.chain, keys, KeyPolicy::kFast, map, target, nullptr, xs)[0]);
        const EncodedDiagonals encoded(*b.chain, map, target, Tier::kEncoded, 0, map.diagonals());
        const auto again = std::move(ckks::apply(*b.chain, keys, KeyPolicy::kFast, map, target, &encoded, xs)[0]);
        check(std::equal(y.c0[0], y.c0[0] + y.limbs() * kN, again.c0[0]) && std::equal(y.c1[0], y.c1[0] + y.limbs() * kN, again.c1[0]),
              what + ", encoded ahead,");
        check(b.chain->level(y.c0) == kLevel - 1 && error(expected, b.client.decrypt(y)) < std::ldexp(1.0, -24), what);
    };
    for (int baby : {1, 2, 4, 8})
        for (int hoisted = 1; hoisted <= baby; hoisted *= 2)
            for (int first : {0, -1, -7})
                for (int stride : {1, 2})
                    run({first, hoisted, baby, 8 / baby, stride}, "a matrix of " + std::to_string(baby) + " baby steps, " +
                                                                      std::to_string(hoisted) + " hoisted");
    for (auto keys : {KeyPolicy::kMinimal, KeyPolicy::kFast})
        for (int count = 1; count <= n; ++count) {
            const auto steps = Steps::fit(-count / 2, -count / 2 + count - 1, 1, keys);
            check(steps.baby % steps.hoisted == 0 && steps.baby * steps.giant >= count, "a fit");
            run(steps, "a fitted matrix of " + std::to_string(count) + " diagonals");
        }
    const auto few = Steps::fit(-31, 31, 16, KeyPolicy::kMinimal), many = Steps::fit(-31, 31, 16, KeyPolicy::kFast);
    check(few.rotations() == std::vector<int>{-496, -480, 32, 128}, "the fewest keys of 63 diagonals");
    check(many.rotations().size() == 9 && many.baby == few.baby && many.giant == few.giant, "the keys of 63 diagonals");
}

void test_refusals(const Bench& b) {
    auto e       = b.evaluator();
    const auto x = b.encrypt(e, values(), 5);
    refused([&] { e.multiply(x, x); }, ErrorKind::kBackend, "a square without a key");
    refused([&] { e.rotate(x, 1); }, ErrorKind::kBackend, "a rotation without a key");
    refused([&] { e.bootstrap(x); }, ErrorKind::kBackend, "a bootstrap without keys");
    refused([&] { e.prepare_bootstrap(); }, ErrorKind::kBackend, "preparing without keys");
    e.add_rotation_key(1, b.client.automorphism_key(ring::rotation_exponent(kN, 1), 5));
    refused([&] { e.rotate(x, 1); }, ErrorKind::kBackend, "a rotation with a key too short");
    const auto square = [&](SwitchingKey key, int level) {
        e.set_relinearisation_key(std::move(key));
        const auto x = b.encrypt(e, values(), level);
        e.multiply(x, x);
    };
    refused([&] { square(b.client.relinearisation_key(5), 5); }, ErrorKind::kBackend, "a square with a key too short");
    auto halved = b.client.relinearisation_key(kTop + 1);
    halved.b.pop_back();
    refused([&] { square(std::move(halved), kTop); }, ErrorKind::kBackend, "a key that lacks a digit");
}

// Bytes of any kind: read, or refused as corrupt; a copy of exactly their size, so that reading past it is seen.
void test_payloads(const Bench& b) {
    const auto x = b.client.encrypt(values(), 4, b.scales[4]);
    const auto whole = write(*b.chain, x);
    const auto attempt = [&](const std::string& text) {
        const std::vector<char> copy(text.begin(), text.end());
        return read(*b.chain, std::as_bytes(std::span(copy)));
    };
    const auto again = attempt(whole);
    check(again.limbs() == 5 && std::equal(again.c1[0], again.c1[0] + 5 * kN, x.c1[0]) &&
              std::equal(again.c0[0], again.c0[0] + 5 * kN, x.c0[0]),
          "a ciphertext that was written and read");
    for (int i = 0; i < 300; ++i) {
        refused([&] { attempt(whole.substr(0, random_bits() % whole.size())); }, ErrorKind::kCorrupt, "half a payload");
        auto flipped = whole;
        flipped[random_bits() % (i % 2 ? 12 : whole.size())] ^= static_cast<char>(1 << random_bits() % 8);
        try {
            attempt(flipped);
        }
        catch (const Error& e) {
            check(e.kind() == ErrorKind::kCorrupt, "a flipped bit");
        }
    }
}

// Keys of a bootstrap, and of rotations by 1 and 3.
void prepare(const Bench& b, NativeEvaluator& e) {
    const auto limbs = b.chain->q_count();
    e.set_relinearisation_key(b.client.relinearisation_key(limbs));
    e.set_conjugation_key(b.client.automorphism_key(2 * kN - 1, limbs - kCts));
    auto [to_sparse, to_dense] = b.client.encapsulation_keys();
    e.set_encapsulation_keys(std::move(to_sparse), std::move(to_dense));
    std::vector<std::pair<int, std::size_t>> done;
    auto needs = Bootstrap::rotations(*b.chain, b.bootstrap);
    needs.push_back({1, limbs});
    needs.push_back({3, limbs});
    for (const auto& need : needs) {
        if (std::find(done.begin(), done.end(), std::pair{need.rotation, need.limbs}) != done.end())
            continue;
        done.emplace_back(need.rotation, need.limbs);
        const auto exponent = ring::rotation_exponent(kN, need.rotation);
        e.add_rotation_key(need.rotation, b.client.automorphism_key(exponent, need.limbs));
    }
    e.prepare_bootstrap();
}

}  // namespace

int main() {
    for (const auto& form : cpu_forms()) {
        set_cpu_form(form.c_str());
        for (auto keys : {KeyPolicy::kMinimal, KeyPolicy::kFast}) {
            const Bench b(keys);
            auto e = b.evaluator();
            prepare(b, e);
            test_operations(b, e);
        }
        const Bench b(KeyPolicy::kFast);
        test_matrices(b);
        test_refusals(b);
        test_payloads(b);
        std::printf("%s: tested\n", form.c_str());
    }
    return failures != 0;
}
