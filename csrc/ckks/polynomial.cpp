#include "ckks/polynomial.h"

#include <bit>
#include <cmath>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/parallel.h"
#include "ring/accumulate.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

namespace {

using Series = std::vector<double>;

int log2_ceil(int n) {
    return static_cast<int>(std::bit_width(static_cast<unsigned>(n - 1)));
}

Series trimmed(Series p) {
    while (p.size() > 1 && p.back() == 0)
        p.pop_back();
    return p;
}

// p = q T_h + r for deg p < 2h, by T_i = 2 T_h T_{i-h} - T_{2h-i}.
int split(const Series& p) {
    return static_cast<int>(std::bit_floor(p.size() - 1));
}

Series quotient(const Series& p) {
    const int h = split(p);
    Series q(p.begin() + h, p.end());
    for (std::size_t i = 1; i < q.size(); ++i)
        q[i] *= 2;
    return trimmed(q);
}

Series remainder(const Series& p) {
    const int h = split(p);
    Series r(p.begin(), p.begin() + h);
    for (int i = h + 1; i < static_cast<int>(p.size()); ++i)
        r[2 * h - i] -= p[i];
    return trimmed(r);
}

// A series is a linear combination of powers when it is short enough and there are levels for its highest one.
bool is_leaf(const Series& p, int depth, int babies) {
    const int degree = static_cast<int>(p.size()) - 1;
    return degree == 0 || (degree < babies && log2_ceil(degree) + 1 <= depth);
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
    // In rescalings: a relinearisation is about three.
    std::size_t work() const {
        return 3 * (products_ + powers_.size()) + combinations_;
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
    void series(Series p, int depth) {
        bool product = false;
        for (; !is_leaf(p, depth, babies_); p = remainder(p)) {
            const auto q = quotient(p);
            power(split(p));
            product |= q.size() > 1;
            if (q.size() > 1)
                series(q, depth - 1);
        }
        (product ? products_ : combinations_) += 1;
        for (std::size_t i = 1; i < p.size(); ++i)
            if (p[i] != 0)
                power(static_cast<int>(i));
    }
    int babies_;
    std::size_t products_ = 0, combinations_ = 0;
    std::set<int> powers_;
};

class Evaluation {
public:
    Evaluation(const Chain& chain, const SwitchingKey& key, const Ciphertext& x, int babies)
        : chain_(chain), key_(key), x_(x), babies_(babies) {}

    // At `level` and exactly at `scale`; p has degree 1 or more. The products q T_h of p = q T_h + (q' T_h' + (...)) and the
    // linear combination at the end are all made for one scale on the limbs of `level` + 1, and added up there: one
    // relinearisation and one rescaling for all of them.
    Ciphertext series(Series p, int level, double scale) {
        const double before = scale * chain_.divisor(level + 1);
        std::optional<Product> sum;
        std::vector<const Ciphertext*> xs;
        std::vector<double> cs;
        const auto linear = [&](int n, double c) {
            xs.push_back(&power(n));
            cs.push_back(c);
        };
        for (; !is_leaf(p, chain_.level(x_.c0) - level, babies_); p = remainder(p)) {
            const int h  = split(p);
            const auto q = quotient(p);
            if (q.size() == 1) {
                linear(h, q[0]);
                continue;
            }
            const auto& giant = power(h);
            auto term         = multiply(chain_, series(q, level + 1, before / giant.scale), giant);
            if (sum)
                add(chain_, *sum, term);
            else
                sum = std::move(term);
        }
        for (std::size_t i = 1; i < p.size(); ++i)
            if (p[i] != 0)
                linear(static_cast<int>(i), p[i]);
        Ciphertext out;
        if (sum) {
            if (!xs.empty())
                add_combination(chain_, sum->d0, sum->d1, xs, cs, before, true);
            out       = relinearise(chain_, std::move(*sum), key_);
            out.scale = scale;
        }
        else {
            out = combine(chain_, xs, cs, level, scale);
        }
        if (p[0] != 0)
            add_constant(chain_, out, p[0]);
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
    parallel_for(product.d0.limbs(), [&](std::size_t i) {
        const auto& m = chain.modulus(product.d0.base() + i);
        ring::add(product.d0[i], product.d0[i], product.d0[i], n, m);
        ring::add(product.d1[i], product.d1[i], product.d1[i], n, m);
        ring::add(product.d2[i], product.d2[i], product.d2[i], n, m);
    });
    if (z) {
        const double minus[] = {-1.0};
        add_combination(chain, product.d0, product.d1, {&z, 1}, minus, product.scale, true);
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
    const int level = chain.level(x.c0);
    if (level < depth)
        throw Error(ErrorKind::kBackend, "no level left for a polynomial");
    int best = 2;
    for (int babies = 4; babies <= 64; babies *= 2)
        if (Count(p, depth, babies).work() < Count(p, depth, best).work())
            best = babies;
    return Evaluation(chain, relinearisation, x, best).series(p, level - depth, scale);
}

}  // namespace fheinfer::ckks
