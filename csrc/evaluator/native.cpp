#include "evaluator/native.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"
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
    parallel_for(ct.limbs(), [&](std::size_t i) {
        const auto& m = chain_->modulus(ct.c0.base() + i);
        for (std::size_t k = 0; k < chain_->n(); ++k)
            out.c0[i][k] = m.add(out.c0[i][k], plain[i][k / repeat]);
    });
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
    parallel_for(factors.size(), [&](std::size_t i) {
        if (!factors[i].empty())
            out[i] = ckks::transform(*chain_, ckks::encode(repeated(factors[i], period), scale), x.limbs(), 0, x.c0.base());
    });
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
    parallel_for(limbs, [&](std::size_t row) {
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
    });
    return wrap(std::move(out));
}

ckks::Target NativeEvaluator::target(const CiphertextPtr& input, const LinearMap& map) const {
    const auto& x = get(input);
    if (map.hoisting == Hoisting::kDouble) {
        const std::size_t primes = x.c0.base() + x.limbs();
        auto rotations           = map.second;
        rotations.push_back(map.giant_steps() > 1 ? map.row_stride : 0);
        const auto one = std::find_if(rotations.begin(), rotations.end(), [](int k) { return k != 0; });
        const std::size_t specials = one == rotations.end()
                                         ? chain_->specials_for(primes)
                                         : keys_.automorphism(ring::rotation_exponent(chain_->n(), *one), primes).specials;
        return {{x.c0.base(), x.limbs()}, specials, factor_scale(x)};
    }
    return {{x.c0.base(), x.limbs()}, 0, factor_scale(x)};
}

std::vector<CiphertextPtr> NativeEvaluator::linear_map(std::span<const CiphertextPtr> xs, const LinearMap& map) {
    return linear_map(xs, map, nullptr);
}

std::vector<CiphertextPtr> NativeEvaluator::linear_map(std::span<const CiphertextPtr> xs, LinearMapConstants& constants) {
    return linear_map(xs, constants.map(), &constants);
}

std::vector<CiphertextPtr> NativeEvaluator::linear_map(std::span<const CiphertextPtr> xs, const LinearMap& map,
                                                       LinearMapConstants* constants) {
    check_linear_map(xs.size(), map, slots());
    std::vector<const ckks::Ciphertext*> inputs;
    for (const auto& x : xs) {
        inputs.push_back(&get(x));
        if (level(x) != level(xs[0]) || !same_scale(inputs.back()->scale, inputs[0]->scale))
            throw Error(ErrorKind::kUsage, "the inputs of a linear map are at different levels");
    }
    const auto target = this->target(xs[0], map);
    const auto kept   = constants ? constants->encoded(*chain_, target) : nullptr;
    std::vector<CiphertextPtr> ys;
    for (auto& y : ckks::apply(*chain_, keys_, keys(), map, target, kept.get(), inputs))
        ys.push_back(wrap(std::move(y)));
    return ys;
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
