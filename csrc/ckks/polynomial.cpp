#include "ckks/polynomial.h"

#include <bit>
#include <cmath>
#include <set>

#include "base/error.h"
#include "ring/accumulate.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

namespace {

using Series = std::vector<double>;

int log2_ceil(int n) {
    return static_cast<int>(std::bit_width(static_cast<unsigned>(n - 1)));
}

// p = q T_h + r for deg p < 2h, by T_i = 2 T_h T_{i-h} - T_{2h-i}.
std::pair<Series, Series> divide(const Series& p, int h) {
    Series q(p.size() - h), r(p.begin(), p.begin() + h);
    q[0] = p[h];
    for (int i = h + 1; i < static_cast<int>(p.size()); ++i) {
        q[i - h] += 2 * p[i];
        r[2 * h - i] -= p[i];
    }
    return {q, r};
}

Series trimmed(Series p) {
    while (p.size() > 1 && p.back() == 0)
        p.pop_back();
    return p;
}

int split(const Series& p) {
    return static_cast<int>(std::bit_floor(p.size() - 1));
}

// A series is a linear combination of powers when it is short enough and there are levels for its highest one.
bool is_leaf(const Series& p, int depth, int babies) {
    const int degree = static_cast<int>(p.size()) - 1;
    return degree < babies && log2_ceil(degree) + 1 <= depth;
}

// The powers T_n is made of: T_n = 2 T_a T_b - T_{a-b}.
std::pair<int, int> factors(int n) {
    const int a = static_cast<int>(std::bit_floor(static_cast<unsigned>(n - 1)));
    return std::has_single_bit(static_cast<unsigned>(n)) ? std::pair{n / 2, n / 2} : std::pair{a, n - a};
}

class Count {
public:
    Count(const Series& p, int depth, int babies) : babies_(babies) {
        series(p, depth);
    }
    std::size_t products() const {
        return products_ + powers_.size();
    }

private:
    void power(int n) {
        if (n < 2 || !powers_.insert(n).second)
            return;
        const auto [a, b] = factors(n);
        power(a);
        power(b);
        power(a - b);
    }
    void series(const Series& p, int depth) {
        if (p.size() < 2)
            return;
        if (is_leaf(p, depth, babies_)) {
            for (std::size_t i = 1; i < p.size(); ++i)
                if (p[i] != 0)
                    power(static_cast<int>(i));
            return;
        }
        const auto [q, r] = divide(p, split(p));
        power(split(p));
        products_ += q.size() > 1;
        series(trimmed(q), depth - 1);
        series(trimmed(r), depth);
    }
    int babies_;
    std::size_t products_ = 0;
    std::set<int> powers_;
};

class Evaluation {
public:
    Evaluation(const Chain& chain, const SwitchingKey& key, const Ciphertext& x, int babies)
        : chain_(chain), key_(key), x_(x), babies_(babies) {}

    // At `level` and exactly at `scale`; p has degree 1 or more.
    Ciphertext series(const Series& p, int level, double scale) {
        if (is_leaf(p, x_.level() - level, babies_))
            return leaf(p, level, scale);
        const int h        = split(p);
        const auto [q, r]  = divide(p, h);
        const auto rest    = trimmed(r);
        const auto& giant  = power(h);
        const auto quotient = trimmed(q);
        Ciphertext out;
        if (quotient.size() == 1) {
            const Ciphertext* xs[] = {&giant};
            out = combine(chain_, xs, std::span(quotient), level, scale);
        }
        else {
            const double dropped = static_cast<double>(chain_.modulus(level + 1).p);
            const auto factor    = series(quotient, level + 1, scale * dropped / giant.scale);
            out = relinearise(chain_, multiply(chain_, factor, giant), key_);
        }
        out.scale = scale;
        if (rest.size() > 1)
            out = add(chain_, out, series(rest, level, scale));
        else if (rest[0] != 0)
            add_constant(chain_, out, rest[0]);
        return out;
    }

private:
    const Ciphertext& power(int n) {
        if (n == 1)
            return x_;
        const auto found = powers_.find(n);
        if (found != powers_.end())
            return found->second;
        const auto [a, b] = factors(n);
        const auto& x = power(a);
        const auto& y = power(b);
        return powers_.emplace(n, double_product(chain_, key_, x, y, a == b ? nullptr : &power(a - b))).first->second;
    }

    Ciphertext leaf(const Series& p, int level, double scale) {
        std::vector<const Ciphertext*> xs;
        std::vector<double> cs;
        for (std::size_t i = 1; i < p.size(); ++i)
            if (p[i] != 0) {
                xs.push_back(&power(static_cast<int>(i)));
                cs.push_back(p[i]);
            }
        auto out = combine(chain_, xs, cs, level, scale);
        if (p[0] != 0)
            add_constant(chain_, out, p[0]);
        return out;
    }

    const Chain& chain_;
    const SwitchingKey& key_;
    const Ciphertext& x_;
    int babies_;
    std::map<int, Ciphertext> powers_;
};

}  // namespace

int series_depth(int degree) {
    return std::max(1, log2_ceil(degree + 1));
}

Ciphertext double_product(const Chain& chain, const SwitchingKey& relinearisation, const Ciphertext& x, const Ciphertext& y,
                          const Ciphertext* z) {
    auto product        = multiply(chain, x, y);
    const std::size_t n = chain.n();
    uint64_t subtract   = 0;
    if (z)
        subtract = static_cast<uint64_t>(std::llround(product.scale / z->scale));
#pragma omp parallel for
    for (std::size_t i = 0; i < product.d0.limbs(); ++i) {
        const auto& m = chain.modulus(i);
        ring::add(product.d0[i], product.d0[i], product.d0[i], n, m);
        ring::add(product.d1[i], product.d1[i], product.d1[i], n, m);
        ring::add(product.d2[i], product.d2[i], product.d2[i], n, m);
        if (z) {  // brought to the scale of the product, exactly to its last bits
            const uint64_t k = m.subtract(0, m.reduce(subtract));
            const uint64_t *z0 = z->c0[i], *z1 = z->c1[i];
            ring::linear_combination(product.d0[i], &z0, &k, 1, true, n, m);
            ring::linear_combination(product.d1[i], &z1, &k, 1, true, n, m);
        }
    }
    auto out = relinearise(chain, std::move(product), relinearisation);
    if (!z)
        add_constant(chain, out, -1);
    return out;
}

Ciphertext chebyshev(const Chain& chain, const SwitchingKey& relinearisation, const Ciphertext& x,
                     std::span<const double> coefficients, double scale) {
    const auto p = trimmed(Series(coefficients.begin(), coefficients.end()));
    if (p.size() < 2)
        throw Error(ErrorKind::kUsage, "a Chebyshev series needs degree 1 or more");
    const int depth = series_depth(static_cast<int>(p.size()) - 1);
    if (x.level() < depth)
        throw Error(ErrorKind::kBackend, "no level left for a polynomial");
    int best = 2;
    for (int babies = 4; babies <= 64; babies *= 2)
        if (Count(p, depth, babies).products() < Count(p, depth, best).products())
            best = babies;
    return Evaluation(chain, relinearisation, x, best).series(p, x.level() - depth, scale);
}

}  // namespace fheinfer::ckks
