// The native backend on a small ring, without OpenFHE. What the tests in Python cannot see, the sanitizers do (make
// sanitize).
#include "ckks/ciphertext_format.h"
#include "tests/client.h"

using namespace fheinfer;
using namespace fheinfer::test;

namespace {

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
        const EncodedDiagonals encoded(*b.chain, map, target, Tier::kEncoded, Window::all(map));
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
void test_bodies(const Bench& b) {
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
        refused([&] { attempt(whole.substr(0, random_bits() % whole.size())); }, ErrorKind::kCorrupt, "half a body");
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
    for (const auto& set : instruction_sets()) {
        set_instruction_set(set.c_str());
        for (auto keys : {KeyPolicy::kMinimal, KeyPolicy::kFast}) {
            const Bench b(keys);
            auto e = b.evaluator();
            prepare(b, e);
            test_operations(b, e);
        }
        const Bench b(KeyPolicy::kFast);
        test_matrices(b);
        test_refusals(b);
        test_bodies(b);
        std::printf("%s: tested\n", set.c_str());
    }
    return failures != 0;
}
