#include "evaluator/native.h"

#include <algorithm>
#include <cmath>
#include <exception>

#include "base/error.h"
#include "base/memory.h"
#include "evaluator/level_rules.h"
#include "ring/accumulate.h"
#include "ring/pointwise.h"

namespace fheinfer {

using ckks::Poly;

namespace {

// Rescaled values are at the scale of their level to within rounding.
constexpr double kScaleTolerance = 1e-6;
// A transform has 16 coefficients or more, so a shorter period is encoded as this many values.
constexpr std::size_t kLeastPeriod = 8;

bool same_scale(double a, double b) {
    return std::abs(a / b - 1) < kScaleTolerance;
}

std::vector<double> repeated(std::span<const double> values, std::size_t period) {
    std::vector<double> out(period);
    for (std::size_t i = 0; i < period; ++i)
        out[i] = values[i % values.size()];
    return out;
}

void check_whole(const ckks::Chain& chain, const ckks::SwitchingKey& key, std::size_t digits, const char* what) {
    if (key.limbs != chain.q_count() || key.b.size() != digits)
        throw Error(ErrorKind::kBackend, std::string("the ") + what + " key has " + std::to_string(key.limbs) + " limbs in " +
                                             std::to_string(key.b.size()) + " digits, " + std::to_string(chain.q_count()) +
                                             " in " + std::to_string(digits) + " are needed");
}

}  // namespace

NativeEvaluator::NativeEvaluator(std::shared_ptr<const ckks::Chain> chain, std::vector<double> scales, LevelModel levels,
                                 std::size_t slots, const ckks::BootstrapParameters& bootstrap)
    : Evaluator(bootstrap.keys), chain_(std::move(chain)), scales_(std::move(scales)), levels_(levels), slots_(slots), parameters_(bootstrap) {}

const ckks::Ciphertext& NativeEvaluator::get(const CiphertextPtr& x) {
    if (const auto* p = dynamic_cast<const NativeCiphertext*>(x.get()))
        return p->value;
    throw Error(ErrorKind::kUsage, "not a ciphertext of the native evaluator");
}

void NativeEvaluator::set_relinearisation_key(ckks::SwitchingKey key) {
    check_whole(*chain_, key, chain_->digits(chain_->q_count()), "relinearisation");
    keys_.relinearisation = std::move(key);
}

void NativeEvaluator::set_encapsulation_keys(ckks::SwitchingKey to_sparse, ckks::SwitchingKey to_dense) {
    check_whole(*chain_, to_dense, 1, "to_dense");
    keys_.to_sparse = std::move(to_sparse);
    keys_.to_dense  = std::move(to_dense);
}

void NativeEvaluator::prepare_bootstrap() {
    for (const auto& need : ckks::Bootstrap::rotations(*chain_, parameters_))
        keys_.automorphism(ring::rotation_exponent(chain_->n(), need.rotation), need.limbs);
    keys_.automorphism(2 * chain_->n() - 1, chain_->q_count() - parameters_.cts_budget);
    if (keys_.to_sparse.b.empty() || keys_.to_dense.b.empty() || keys_.relinearisation.b.empty())
        throw Error(ErrorKind::kBackend, "bootstrapping needs the relinearisation and encapsulation keys");
    bootstrap_ = std::make_unique<ckks::Bootstrap>(*chain_, parameters_, scales_, keys_);
    give_back_memory();
}

CiphertextPtr NativeEvaluator::add(const CiphertextPtr& x, const CiphertextPtr& y) {
    const int low = std::min(level(x), level(y));
    return wrap(ckks::add(*chain_, get(drop_to(x, low)), get(drop_to(y, low))));
}

CiphertextPtr NativeEvaluator::add_plain(const CiphertextPtr& x, std::span<const double> values) {
    check_period(values.size(), slots());
    const auto& ct   = get(x);
    const auto whole = repeated(values, std::max(values.size(), kLeastPeriod));
    const auto plain = ckks::transform(*chain_, ckks::encode(whole, ct.scale), ct.limbs(), 0, ct.c0.base());
    auto out         = ct.first(ct.limbs());
    const std::size_t repeat = chain_->n() / plain.n();
#pragma omp parallel for
    for (std::size_t i = 0; i < ct.limbs(); ++i) {
        const auto& m = chain_->modulus(ct.c0.base() + i);
        for (std::size_t k = 0; k < chain_->n(); ++k)
            out.c0[i][k] = m.add(out.c0[i][k], plain[i][k / repeat]);
    }
    return wrap(std::move(out));
}

CiphertextPtr NativeEvaluator::multiply(const CiphertextPtr& x, const CiphertextPtr& y) {
    const int low = std::min(level(x), level(y));
    level_after(low, 1, "product");
    return relinearise(ckks::multiply(*chain_, get(drop_to(x, low)), get(drop_to(y, low))));
}

CiphertextPtr NativeEvaluator::relinearise(ckks::Product product) const {
    return wrap(ckks::relinearise(*chain_, std::move(product), keys_.relinearisation));
}

ckks::Ciphertext NativeEvaluator::conjugate(const ckks::Ciphertext& x) const {
    return ckks::rotate(*chain_, keys_, x, 2 * chain_->n() - 1);
}

double NativeEvaluator::factor_scale(const ckks::Ciphertext& x) const {
    const int level = chain_->level(x.c0);
    return scales_[level_after(level, 1, "multiplication")] * chain_->divisor(level) / x.scale;
}

std::vector<Poly> NativeEvaluator::encode(std::span<const Diagonal> factors, std::size_t period, const ckks::Ciphertext& x,
                                          double scale) const {
    std::vector<Poly> out(factors.size());
    std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic)
    for (std::size_t i = 0; i < factors.size(); ++i) {
        if (factors[i].empty())
            continue;
        try {
            out[i] = ckks::transform(*chain_, ckks::encode(repeated(factors[i], period), scale), x.limbs(), 0, x.c0.base());
        }
        catch (...) {
#pragma omp critical
            failure = std::current_exception();
        }
    }
    if (failure)
        std::rethrow_exception(failure);
    return out;
}

CiphertextPtr NativeEvaluator::multiply_accumulate(std::span<const CiphertextPtr> xs, std::span<const Diagonal> factors) {
    const ckks::Ciphertext* first = nullptr;
    std::size_t period            = kLeastPeriod;
    for (std::size_t t = 0; t < xs.size(); ++t)
        if (!factors[t].empty()) {
            check_period(factors[t].size(), slots());
            period = std::max(period, factors[t].size());
            first  = first ? first : &get(xs[t]);
            if (level(xs[t]) != chain_->level(first->c0) || !same_scale(get(xs[t]).scale, first->scale))
                throw Error(ErrorKind::kUsage, "the terms of a sum are at different levels");
        }
    if (!first)
        return nullptr;
    const auto plain        = encode(factors, period, *first, factor_scale(*first));
    const std::size_t limbs = first->limbs(), base = first->c0.base(), n = chain_->n();
    ckks::Ciphertext out{Poly(limbs, n, base), Poly(limbs, n, base), first->scale * factor_scale(*first)};
#pragma omp parallel for schedule(dynamic)
    for (std::size_t row = 0; row < limbs; ++row) {
        std::vector<const uint64_t*> c0, c1, factor;
        for (std::size_t t = 0; t < xs.size(); ++t)
            if (plain[t].limbs()) {
                c0.push_back(get(xs[t]).c0[row]);
                c1.push_back(get(xs[t]).c1[row]);
                factor.push_back(plain[t][row]);
            }
        const std::size_t repeat = n / (2 * period);
        const auto& m            = chain_->modulus(base + row);
        ring::sum_of_products(out.c0[row], c0.data(), factor.data(), factor.size(), repeat, false, n, m);
        ring::sum_of_products(out.c1[row], c1.data(), factor.data(), factor.size(), repeat, false, n, m);
    }
    return wrap(std::move(out));
}

// The base class's order, but with all sums of a block formed part by part: a part of every tap fits the second cache,
// where a tap after the other would be read from memory for every sum.
CiphertextPtr NativeEvaluator::linear_transform(const CiphertextPtr& input, const LinearTransform& t) {
    const auto& x           = get(input);
    check_period(t.period, slots());
    const std::size_t period = std::max<std::size_t>(t.period, kLeastPeriod);
    const std::size_t limbs = x.limbs(), base = x.c0.base(), n = chain_->n(), repeat = n / (2 * period);
    const auto taps = this->taps(input, t);
    // Short scales need it, and on the chains that have them every level but the last has room.
    const int finer     = chain_->half() && level(input) > 1 ? t.finer : 0;
    const double factor = std::ldexp(factor_scale(x), finer), scale = x.scale * factor;
    const auto add_to  = [this](CiphertextPtr& sum, ckks::Ciphertext term) {
        sum = wrap(sum ? ckks::add(*chain_, get(sum), term) : std::move(term));
    };
    CiphertextPtr out;
    for (int b = t.block_steps - 1; b >= 0; --b) {
        const std::span<const Diagonal> factors(&t.diagonal(b, 0, 0), t.row_steps * t.taps());
        const auto plain = encode(factors, period, x, factor);
        std::vector<ckks::Ciphertext> sums(t.row_steps);
        for (int r = 0; r < t.row_steps; ++r)
            if (std::any_of(&plain[r * t.taps()], &plain[r * t.taps()] + t.taps(), [](const Poly& p) { return p.limbs() > 0; }))
                sums[r] = {Poly(limbs, n, base), Poly(limbs, n, base), scale};
        constexpr std::size_t kPart = 2048;
        const std::size_t part      = std::max(std::min(n, kPart), 16 * repeat);
#pragma omp parallel for collapse(2) schedule(dynamic)
        for (std::size_t row = 0; row < limbs; ++row)
            for (std::size_t i = 0; i < n; i += part) {
                const auto& m = chain_->modulus(base + row);
                std::vector<const uint64_t*> c0, c1, factor;
                for (int r = 0; r < t.row_steps; ++r) {
                    if (!sums[r].limbs())
                        continue;
                    c0.clear(), c1.clear(), factor.clear();
                    for (std::size_t tap = 0; tap < taps.size(); ++tap)
                        if (const auto& p = plain[r * taps.size() + tap]; p.limbs()) {
                            c0.push_back(get(taps[tap]).c0[row] + i);
                            c1.push_back(get(taps[tap]).c1[row] + i);
                            factor.push_back(p[row] + i / repeat);
                        }
                    ring::sum_of_products(sums[r].c0[row] + i, c0.data(), factor.data(), factor.size(), repeat, false, part, m);
                    ring::sum_of_products(sums[r].c1[row] + i, c1.data(), factor.data(), factor.size(), repeat, false, part, m);
                }
            }
        CiphertextPtr block;
        for (int r = t.row_steps - 1; r >= 0; --r) {
            if (block)
                block = rotate(block, t.row_stride);
            if (sums[r].limbs())
                add_to(block, std::move(sums[r]));
        }
        if (out)
            out = rotate(out, t.block_stride);
        if (block)
            add_to(out, get(block).first(limbs));
    }
    if (!out)
        throw Error(ErrorKind::kPlan, "a linear transform with no non-zero diagonal");
    out = rotate(out, t.shift);
    for (int fold : t.folds)
        out = add(out, rotate(out, fold));
    return rescale(out);
}

CiphertextPtr NativeEvaluator::rescale(const CiphertextPtr& x) {
    level_after(level(x), 1, "multiplication");
    return wrap(ckks::rescale(*chain_, get(x)));
}

CiphertextPtr NativeEvaluator::rotate(const CiphertextPtr& x, int k) {
    return rotate_many(x, {&k, 1})[0];
}

std::vector<CiphertextPtr> NativeEvaluator::rotate_many(const CiphertextPtr& x, std::span<const int> ks) {
    std::vector<uint64_t> exponents;
    for (int k : ks)
        if (k != 0)
            exponents.push_back(ring::rotation_exponent(chain_->n(), k));
    auto rotated = ckks::rotate_many(*chain_, keys_, get(x), exponents);
    std::vector<CiphertextPtr> out;
    std::size_t next = 0;
    for (int k : ks)
        out.push_back(k == 0 ? x : wrap(std::move(rotated[next++])));
    return out;
}

CiphertextPtr NativeEvaluator::chebyshev(const CiphertextPtr& x, std::span<const double> coefficients) {
    const int left = level_after(level(x), levels_.chebyshev_depth(static_cast<int>(coefficients.size()) - 1), "polynomial");
    while (coefficients.size() > 2 && coefficients.back() == 0)
        coefficients = coefficients.first(coefficients.size() - 1);
    const int depth = ckks::series_depth(static_cast<int>(coefficients.size()) - 1);
    // Where zeros at the end make it shorter than it says, levels come off first, where they are free.
    const auto lowered = drop_to(x, left + depth);
    return wrap(ckks::chebyshev(*chain_, keys_.relinearisation, get(lowered), coefficients, scales_[left]));
}

CiphertextPtr NativeEvaluator::bootstrap(const CiphertextPtr& x) {
    check_bootstrap(level(x), levels());
    if (!bootstrap_)
        throw Error(ErrorKind::kBackend, "bootstrapping was not prepared");
    return wrap(bootstrap_->apply(keys_, get(x)));
}

CiphertextPtr NativeEvaluator::drop_to(const CiphertextPtr& x, int target) {
    const int from = level(x);
    check_drop(from, target);
    if (from == target)
        return x;
    const ckks::Ciphertext* xs[] = {&get(x)};
    const double one[]           = {1.0};
    return wrap(ckks::combine(*chain_, xs, one, target, scales_[target]));
}

}  // namespace fheinfer
