// The ring arithmetic in every instruction set against 128-bit integers, on buffers of exactly the size they need: what the
// tests in Python cannot see, the sanitizers do (make sanitize).
#include <cstdio>
#include <functional>
#include <random>
#include <vector>

#include "base/cpu.h"
#include "ring/accumulate.h"
#include "ring/automorphism.h"
#include "ring/convert.h"
#include "ring/ntt.h"
#include "ring/pointwise.h"

using namespace fheinfer;
using namespace fheinfer::ring;

namespace {

using Limb = std::vector<uint64_t>;

// 2^17 divides p - 1. The first two are the greatest below 2^50 and 2^45.
const uint64_t kPrimes[] = {0x3ffffffd20001, 0x1fffffc20001, 786433};

int failures = 0;
std::mt19937_64 random_bits(1);

void check(bool right, const char* what, std::size_t n, uint64_t p) {
    if (right)
        return;
    std::printf("%s: %s is wrong for n = %zu, p = %llu\n", instruction_set_name(), what, n, static_cast<unsigned long long>(p));
    ++failures;
}

// Below the bound; one in four the greatest, one in eight 0.
Limb residues(std::size_t n, uint64_t bound) {
    Limb x(n);
    for (auto& v : x) {
        const uint64_t kind = random_bits() % 8;
        v                   = kind == 0 ? 0 : kind < 3 ? bound - 1 : random_bits() % bound;
    }
    return x;
}

// f(i) for every i below n.
Limb each(std::size_t n, const std::function<uint128(std::size_t)>& f, const Modulus& m) {
    Limb out(n);
    for (std::size_t i = 0; i < n; ++i)
        out[i] = static_cast<uint64_t>(f(i) % m.p);
    return out;
}

std::vector<const uint64_t*> rows(const std::vector<Limb>& x) {
    std::vector<const uint64_t*> out;
    for (const auto& row : x)
        out.push_back(row.data());
    return out;
}

uint64_t root(std::size_t n, const Modulus& m) {
    for (uint64_t g = 2;; ++g)
        if (const uint64_t r = m.power(g, (m.p - 1) / (2 * n)); m.power(r, n) == m.p - 1)
            return r;
}

void test_transform(std::size_t n, const Modulus& m) {
    const Ntt ntt(n, m, root(n, m));
    const Limb x = residues(n, m.p), y = residues(n, m.p);
    Limb a = x, b = y;
    ntt.forward(a.data());
    ntt.forward(b.data());
    Limb c(n);
    multiply(c.data(), a.data(), b.data(), n, m);
    ntt.inverse(c.data());
    // The coefficients 0 and n - 1 of the negacyclic product.
    uint64_t first = 0, last = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const uint64_t product = m.multiply(x[i], y[(n - i) % n]);
        first = i ? m.subtract(first, product) : product;
        last  = m.add(last, m.multiply(x[i], y[n - 1 - i]));
    }
    check(c[0] == first && c[n - 1] == last, "the product by transforms", n, m.p);
    ntt.inverse(a.data());
    check(a == x, "the inverse transform", n, m.p);
    const auto there = automorphism(n, 5), back = automorphism(n, rotation_exponent(n, -1));
    permute(c.data(), x.data(), there);
    bool right = true;
    for (std::size_t i = 0; i < n; ++i)
        right = right && c[i] == x[there[i]];
    check(right, "permute", n, m.p);
    permute(a.data(), c.data(), back);
    check(a == x, "the automorphism back", n, m.p);
}

void test_elements(std::size_t n, const Modulus& m, const Modulus& from) {
    const Limb x = residues(n, m.p), y = residues(n, m.p), any = residues(n, uint64_t{1} << 50), other = residues(n, from.p);
    const Factor f(random_bits() % m.p, m);
    Limb out(n);
    add(out.data(), x.data(), y.data(), n, m);
    check(out == each(n, [&](auto i) { return x[i] + y[i]; }, m), "add", n, m.p);
    subtract(out.data(), x.data(), y.data(), n, m);
    check(out == each(n, [&](auto i) { return x[i] + m.p - y[i]; }, m), "subtract", n, m.p);
    multiply(out.data(), x.data(), y.data(), n, m);
    check(out == each(n, [&](auto i) { return uint128{x[i]} * y[i]; }, m), "multiply", n, m.p);
    multiply(out.data(), any.data(), f, n, m);
    check(out == each(n, [&](auto i) { return uint128{any[i]} * f.value; }, m), "multiply by a factor", n, m.p);
    subtract_multiply(out.data(), x.data(), y.data(), f, n, m);
    check(out == each(n, [&](auto i) { return uint128{x[i] + m.p - y[i]} * f.value; }, m), "subtract_multiply", n, m.p);
    switch_modulus(out.data(), other.data(), n, from, m);
    const uint64_t shift = m.p - from.p % m.p;
    check(out == each(n, [&](auto i) { return other[i] + (other[i] > from.p / 2 ? shift : 0); }, m), "switch_modulus", n, m.p);
    std::vector<int64_t> numbers(n);
    for (auto& v : numbers)
        v = static_cast<int64_t>(random_bits()) / 2;
    lift(out.data(), numbers.data(), n, m);
    const auto positive = (uint128{1} << 64) / m.p * m.p;
    check(out == each(n, [&](auto i) { return positive + static_cast<uint128>(__extension__ static_cast<__int128>(numbers[i])); }, m),
          "lift", n, m.p);
    check(all_below(x.data(), n, m), "all_below", n, m.p);
    for (const uint64_t large : {m.p, m.p + 1, uint64_t{1} << 63, ~uint64_t{0}}) {
        Limb one = x;
        one[random_bits() % n] = large;
        check(!all_below(one.data(), n, m), "all_below with one that is not", n, m.p);
    }
}

void test_sums(std::size_t n, std::size_t terms, std::size_t repeat, bool accumulate, const Modulus& m) {
    const Limb start = residues(n, m.p), cs = residues(terms, m.p), fractions = residues(terms, uint64_t{1} << 52);
    std::vector<Limb> xs, ys;
    for (std::size_t t = 0; t < terms; ++t) {
        xs.push_back(residues(n, uint64_t{1} << 50));
        ys.push_back(residues(n / repeat, m.p));
    }
    const auto sum = [&](std::size_t i, auto y) {
        uint128 out = accumulate ? start[i] : 0;
        for (std::size_t t = 0; t < terms; ++t)
            out += uint128{xs[t][i]} * y(t);
        return out;
    };
    Limb out = start;
    sum_of_products(out.data(), rows(xs).data(), rows(ys).data(), terms, repeat, accumulate, n, m);
    check(out == each(n, [&](auto i) { return sum(i, [&](auto t) { return ys[t][i / repeat]; }); }, m), "sum_of_products", n, m.p);
    const Limb expected = each(n, [&](auto i) { return sum(i, [&](auto t) { return cs[t]; }); }, m);
    out                 = start;
    linear_combination(out.data(), rows(xs).data(), cs.data(), terms, accumulate, n, m);
    check(out == expected, "linear_combination", n, m.p);
    Limb first = start, second = start;
    uint64_t* const outs[]        = {first.data(), second.data()};
    const uint64_t* const both[]  = {cs.data(), cs.data()};
    const Modulus* const moduli[] = {&m, &m};
    linear_combinations(outs, 2, rows(xs).data(), both, terms, accumulate, n, moduli);
    check(first == expected && second == expected, "linear_combinations", n, m.p);
    rounded_quotient(out.data(), rows(xs).data(), fractions.data(), terms, 3, n);
    bool right = true;
    for (std::size_t i = 0; i < n; ++i) {
        uint64_t q = 4;
        for (std::size_t t = 0; t < terms; ++t)
            q += static_cast<uint64_t>(uint128{xs[t][i]} * fractions[t] >> 52);
        right = right && out[i] == q >> 3;
    }
    check(right, "rounded_quotient", n, m.p);
}

}  // namespace

int main() {
    for (const auto& set : instruction_sets()) {
        set_instruction_set(set.c_str());
        for (const uint64_t p : kPrimes) {
            const Modulus m(p);
            for (std::size_t n = 16; n <= 1 << 13; n *= 2)
                test_transform(n, m);
            for (const std::size_t n : {16, 48, 160}) {
                for (const uint64_t from : kPrimes)
                    test_elements(n, m, Modulus(from));
                for (const std::size_t terms : {1, 2, 3, 15, 16, 63})
                    for (const std::size_t repeat : {1, 2, 4, 8, 16})
                        test_sums(n, terms, repeat, terms % 2, m);
            }
            test_sums(32, kMaxTerms, 1, true, m);
        }
        std::printf("%s: tested\n", set.c_str());
    }
    return failures != 0;
}
