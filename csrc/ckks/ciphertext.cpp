#include "ckks/ciphertext.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "base/error.h"
#include "base/parallel.h"
#include "ring/accumulate.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

using namespace ring;

namespace {

// Residue of a constant that may be larger than a word.
uint64_t residue(long double x, const Modulus& m) {
    __extension__ using int128 = __int128;
    const auto v    = static_cast<int128>(std::rint(x));
    const uint64_t r = m.reduce(static_cast<uint128>(v < 0 ? -v : v));
    return v < 0 ? m.subtract(0, r) : r;
}

// A polynomial for a ciphertext of these rows.
Poly blank(const Chain& chain, Rows rows) {
    return Poly(rows.limbs, chain.n(), rows.first);
}

// Itself where it has all primes of a level; on a composite-prime chain an even level lacks the sprout prime, which a
// rescaling brings in: then x brought there, in `made`.
const Ciphertext& with_primes_of(const Chain& chain, const Ciphertext& x, int level, Ciphertext& made) {
    if (x.c0.base() <= chain.rows(level).first)
        return x;
    const Ciphertext* xs[] = {&x};
    const double one[]     = {1.0};
    return made = combine(chain, xs, one, level, x.scale);
}

}  // namespace

void Keys::add(uint64_t exponent, SwitchingKey key) {
    const std::size_t limbs = key.limbs;
    if (!automorphisms[exponent].emplace(limbs, std::move(key)).second)
        throw Error(ErrorKind::kUsage, "an automorphism has a key of this height already");
}

bool Keys::has(uint64_t exponent, std::size_t primes) const {
    const auto found = automorphisms.find(exponent);
    return found != automorphisms.end() && found->second.lower_bound(primes) != found->second.end();
}

const SwitchingKey& Keys::automorphism(uint64_t exponent, std::size_t primes) const {
    if (!has(exponent, primes))
        throw Error(ErrorKind::kBackend, "no key of " + std::to_string(primes) + " limbs for the automorphism by " +
                                             std::to_string(exponent));
    return automorphisms.at(exponent).lower_bound(primes)->second;
}

const std::vector<uint32_t>& permutation(const Chain& chain, uint64_t exponent) {
    static std::mutex mutex;
    static std::map<std::pair<std::size_t, uint64_t>, std::unique_ptr<std::vector<uint32_t>>> made;
    const std::lock_guard lock(mutex);
    auto& out = made[{chain.n(), exponent}];
    if (!out)
        out = std::make_unique<std::vector<uint32_t>>(ring::automorphism(chain.n(), exponent));
    return *out;
}

namespace {

// `of` is ring::add or ring::subtract.
template <typename Of>
Ciphertext combined(const Chain& chain, const Ciphertext& x, const Ciphertext& y, Of of) {
    if (x.limbs() != y.limbs() || x.c0.base() != y.c0.base() || std::abs(x.scale / y.scale - 1) > 1e-7)
        throw Error(ErrorKind::kBackend, "ciphertexts of different levels or scales");
    const Rows rows{x.c0.base(), x.limbs()};
    Ciphertext out{blank(chain, rows), blank(chain, rows), x.scale};
    parallel_for(rows.limbs, [&](std::size_t i) {
        const auto& m = chain.modulus(rows.first + i);
        of(out.c0[i], x.c0[i], y.c0[i], chain.n(), m);
        of(out.c1[i], x.c1[i], y.c1[i], chain.n(), m);
    });
    return out;
}

// In place. In evaluation form X^(n/2) is a square root of -1 at every root.
void turn(const Chain& chain, std::initializer_list<Poly*> polys) {
    const Poly& first = **polys.begin();
    parallel_for(first.limbs(), [&](std::size_t i) {
        const std::size_t prime = first.base() + i;
        Poly unit(1, chain.n());
        std::fill_n(unit[0], chain.n(), 0);
        unit[0][chain.n() / 2] = 1;
        chain.ntt(prime).forward(unit[0]);
        for (Poly* x : polys)
            multiply((*x)[i], (*x)[i], unit[0], chain.n(), chain.modulus(prime));
    });
}

}  // namespace

Ciphertext add(const Chain& chain, const Ciphertext& x, const Ciphertext& y) {
    return combined(chain, x, y, ring::add);
}

Ciphertext subtract(const Chain& chain, const Ciphertext& x, const Ciphertext& y) {
    return combined(chain, x, y, ring::subtract);
}

Ciphertext multiply_by_i(const Chain& chain, const Ciphertext& x) {
    auto out = x.first(x.limbs());
    turn(chain, {&out.c0, &out.c1});
    return out;
}

Product multiply_by_i(const Chain& chain, Product x) {
    turn(chain, {&x.d0, &x.d1, &x.d2});
    return x;
}

void add_constant(const Chain& chain, Ciphertext& x, double value) {
    const long double constant = static_cast<long double>(value) * x.scale;
    parallel_for(x.limbs(), [&](std::size_t i) {
        const auto& m    = chain.modulus(x.c0.base() + i);
        const uint64_t c = residue(constant, m);
        for (std::size_t k = 0; k < chain.n(); ++k)
            x.c0[i][k] = m.add(x.c0[i][k], c);
    });
}

Ciphertext multiply_integer(const Chain& chain, const Ciphertext& x, int64_t k) {
    const Rows rows{x.c0.base(), x.limbs()};
    Ciphertext out{blank(chain, rows), blank(chain, rows), x.scale};
    parallel_for(rows.limbs, [&](std::size_t i) {
        const auto& m = chain.modulus(rows.first + i);
        const Factor f(m.from_signed(k), m);
        multiply(out.c0[i], x.c0[i], f, chain.n(), m);
        multiply(out.c1[i], x.c1[i], f, chain.n(), m);
    });
    return out;
}

Ciphertext combine(const Chain& chain, std::span<const Ciphertext* const> xs, std::span<const double> cs, int level, double scale) {
    const Rows rows = chain.rows(level + 1);
    Ciphertext sum{blank(chain, rows), blank(chain, rows), scale * chain.divisor(level + 1)};
    add_combination(chain, sum.c0, sum.c1, xs, cs, sum.scale, false);
    auto out  = rescale(chain, sum);
    out.scale = scale;
    return out;
}

void add_combination(const Chain& chain, Poly& c0, Poly& c1, std::span<const Ciphertext* const> xs, std::span<const double> cs,
                     double scale, bool accumulate) {
    const std::size_t terms = xs.size();
    const int level         = chain.level(c0);
    std::vector<Ciphertext> made(terms);
    std::vector<const Ciphertext*> at(terms);
    for (std::size_t t = 0; t < terms; ++t)
        at[t] = &with_primes_of(chain, *xs[t], level, made[t]);
    parallel_for(c0.limbs(), [&](std::size_t i) {
        const std::size_t prime = c0.base() + i;
        const auto& m           = chain.modulus(prime);
        std::vector<const uint64_t*> x0(terms), x1(terms);
        std::vector<uint64_t> factors(terms);
        for (std::size_t t = 0; t < terms; ++t) {
            x0[t]      = at[t]->c0.of(prime);
            x1[t]      = at[t]->c1.of(prime);
            factors[t] = residue(static_cast<long double>(cs[t]) * scale / at[t]->scale, m);
        }
        linear_combination(c0[i], x0.data(), factors.data(), terms, accumulate, chain.n(), m);
        linear_combination(c1[i], x1.data(), factors.data(), terms, accumulate, chain.n(), m);
    });
}

void add(const Chain& chain, Product& sum, const Product& x) {
    parallel_for(sum.d0.limbs(), [&](std::size_t i) {
        const auto& m = chain.modulus(sum.d0.base() + i);
        ring::add(sum.d0[i], sum.d0[i], x.d0[i], chain.n(), m);
        ring::add(sum.d1[i], sum.d1[i], x.d1[i], chain.n(), m);
        ring::add(sum.d2[i], sum.d2[i], x.d2[i], chain.n(), m);
    });
}

Product multiply(const Chain& chain, const Ciphertext& x, const Ciphertext& y) {
    const std::size_t n = chain.n();
    const int level     = std::min(chain.level(x.c0), chain.level(y.c0));
    const Rows rows     = chain.rows(level);
    Ciphertext made[2];
    const auto &a = with_primes_of(chain, x, level, made[0]), &b = with_primes_of(chain, y, level, made[1]);
    Product out{blank(chain, rows), blank(chain, rows), blank(chain, rows), x.scale * y.scale};
    parallel_for(rows.limbs, [&](std::size_t i) {
        const std::size_t prime = rows.first + i;
        const auto& m           = chain.modulus(prime);
        const uint64_t* xs[]    = {a.c0.of(prime), a.c1.of(prime)};
        const uint64_t* ys[]    = {b.c1.of(prime), b.c0.of(prime)};
        multiply(out.d0[i], xs[0], ys[1], n, m);
        multiply(out.d2[i], xs[1], ys[0], n, m);
        sum_of_products(out.d1[i], xs, ys, 2, 1, false, n, m);
    });
    return out;
}

Ciphertext relinearise(const Chain& chain, Product product, const SwitchingKey& key) {
    const std::size_t limbs = product.d0.limbs(), base = product.d0.base(), n = chain.n();
    const int level         = chain.level(product.d0);
    if (level < 1)
        throw Error(ErrorKind::kBackend, "no level left for a multiplication");
    auto sum = inner_product(chain, mod_up(chain, product.d2, key.specials), key, limbs);
    // P * d0 and P * d1 join before the division by P and the last prime at once: one rounding instead of two, and no
    // transforms of its own for rescaling.
    parallel_for(limbs, [&](std::size_t i) {
        const auto& m    = chain.modulus(base + i);
        const uint64_t p = special_product(chain, key.specials, base + i).value;
        const uint64_t* d0 = product.d0[i];
        const uint64_t* d1 = product.d1[i];
        linear_combination(sum.b[i], &d0, &p, 1, true, n, m);
        linear_combination(sum.a[i], &d1, &p, 1, true, n, m);
    });
    const Rows to = chain.rows(level - 1);
    auto out = divide(chain, sum, key.specials, to);
    return {std::move(out.b), std::move(out.a), product.scale / chain.divisor(level)};
}

Ciphertext rescale(const Chain& chain, const Ciphertext& x) {
    const int level = chain.level(x.c0);
    const Rows to   = chain.rows(level - 1);
    Ciphertext out{{}, {}, x.scale / chain.divisor(level)};
    in_halves(chain, [&](std::size_t i) { (i ? out.c1 : out.c0) = divide(chain, i ? x.c1 : x.c0, 0, to); });
    return out;
}

Ciphertext rotate(const Chain& chain, const Keys& keys, const Ciphertext& x, uint64_t exponent) {
    return std::move(rotate_many(chain, keys, x, {&exponent, 1})[0]);
}

namespace {

void rotate_to(const Chain& chain, Ciphertext& out, const Ciphertext& x, const std::vector<Poly>& digits, const SwitchingKey& key,
               uint64_t exponent) {
    const std::size_t limbs = x.limbs();
    auto [b, a]             = divide(chain, inner_product(chain, digits, key, limbs), key.specials, {x.c0.base(), limbs});
    const auto& order       = permutation(chain, exponent);
    parallel_for(limbs, [&](std::size_t i) {
        ring::add(b[i], b[i], x.c0[i], chain.n(), chain.modulus(x.c0.base() + i));
        permute(out.c0[i], b[i], order);
        permute(out.c1[i], a[i], order);
    });
}

}  // namespace

std::vector<Ciphertext> rotate_many(const Chain& chain, const Keys& keys, const Ciphertext& x, std::span<const uint64_t> exponents) {
    // Before what is freed again: put into the gaps that such things leave, results would make the heap half as large again.
    std::vector<Ciphertext> out;
    for (std::size_t i = 0; i < exponents.size(); ++i)
        out.push_back({blank(chain, {x.c0.base(), x.limbs()}), blank(chain, {x.c0.base(), x.limbs()}), x.scale});
    std::map<std::size_t, std::vector<Poly>> digits;  // by special primes: keys of another height have others
    std::vector<const SwitchingKey*> with;
    for (uint64_t exponent : exponents) {
        const auto& key = *with.emplace_back(&keys.automorphism(exponent, x.c0.base() + x.limbs()));
        auto& up        = digits[key.specials];
        if (up.empty())
            up = mod_up(chain, x.c1, key.specials);
    }
    const auto one = [&](std::size_t i) { rotate_to(chain, out[i], x, digits.at(with[i]->specials), *with[i], exponents[i]); };
    if (runs_whole(chain) && exponents.size() > thread_count()) {
        parallel_for(exponents.size(), one);
    }
    else {
        for (std::size_t i = 0; i < exponents.size(); ++i)
            one(i);
    }
    return out;
}

}  // namespace fheinfer::ckks
