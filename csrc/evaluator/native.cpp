#include "evaluator/native.h"

#include <cmath>
#include <exception>

#include "base/error.h"
#include "evaluator/level_rules.h"
#include "ring/accumulate.h"
#include "ring/pointwise.h"

namespace fheinfer {

using ckks::Poly;

namespace {

// Rescaled values are at the scale of their level to within rounding.
constexpr double kScaleTolerance = 1e-6;

bool same_scale(double a, double b) {
    return std::abs(a / b - 1) < kScaleTolerance;
}

}  // namespace

NativeEvaluator::NativeEvaluator(std::shared_ptr<const ckks::Chain> chain, std::vector<double> scales, LevelModel levels,
                                 std::size_t slots, const ckks::BootstrapParameters& bootstrap)
    : chain_(std::move(chain)), scales_(std::move(scales)), levels_(levels), slots_(slots), parameters_(bootstrap) {}

const ckks::Ciphertext& NativeEvaluator::get(const CiphertextPtr& x) {
    if (const auto* p = dynamic_cast<const NativeCiphertext*>(x.get()))
        return p->value;
    throw Error(ErrorKind::kUsage, "not a ciphertext of the native evaluator");
}

void NativeEvaluator::prepare_bootstrap() {
    for (const auto& need : ckks::Bootstrap::rotations(*chain_, parameters_))
        keys_.automorphism(ring::rotation_exponent(chain_->n(), need.rotation), need.limbs);
    keys_.automorphism(2 * chain_->n() - 1, chain_->q_count() - parameters_.cts_budget);
    if (keys_.to_sparse.b.empty() || keys_.to_dense.b.empty() || keys_.relinearisation.b.empty())
        throw Error(ErrorKind::kBackend, "bootstrapping needs the relinearisation and encapsulation keys");
    bootstrap_ = std::make_unique<ckks::Bootstrap>(*chain_, parameters_, scales_, keys_);
}

CiphertextPtr NativeEvaluator::add(const CiphertextPtr& x, const CiphertextPtr& y) {
    const int low = std::min(level(x), level(y));
    return wrap(ckks::add(*chain_, get(level(x) > low ? drop_to(x, low) : x), get(level(y) > low ? drop_to(y, low) : y)));
}

CiphertextPtr NativeEvaluator::add_plain(const CiphertextPtr& x, std::span<const double> values) {
    check_period(values.size(), slots());
    const auto& ct   = get(x);
    const auto plain = ckks::transform(*chain_, ckks::encode(values, ct.scale), ct.limbs(), 0);
    auto out         = ct.first(ct.limbs());
    const std::size_t repeat = chain_->n() / plain.n();
#pragma omp parallel for
    for (std::size_t i = 0; i < ct.limbs(); ++i) {
        const auto& m = chain_->modulus(i);
        for (std::size_t k = 0; k < chain_->n(); ++k)
            out.c0[i][k] = m.add(out.c0[i][k], plain[i][k / repeat]);
    }
    return wrap(std::move(out));
}

CiphertextPtr NativeEvaluator::square(const CiphertextPtr& x) {
    level_after(level(x), 1, "square");
    return wrap(ckks::relinearise(*chain_, ckks::multiply(*chain_, get(x), get(x)), keys_.relinearisation));
}

CiphertextPtr NativeEvaluator::multiply_accumulate(std::span<const CiphertextPtr> xs, std::span<const Diagonal> factors) {
    std::vector<std::size_t> terms;
    std::size_t period = 0;
    for (std::size_t t = 0; t < xs.size(); ++t)
        if (!factors[t].empty()) {
            check_period(factors[t].size(), slots());
            period = std::max(period, factors[t].size());
            terms.push_back(t);
        }
    if (terms.empty())
        return nullptr;
    const auto& first       = get(xs[terms[0]]);
    const std::size_t limbs = first.limbs(), n = chain_->n();
    level_after(first.level(), 1, "multiplication");
    // So that rescaling arrives at the scale of the level below.
    const double scale = scales_[limbs - 2] * static_cast<double>(chain_->modulus(limbs - 1).p) / first.scale;
    for (std::size_t t : terms)
        if (get(xs[t]).limbs() != limbs || !same_scale(get(xs[t]).scale, first.scale))
            throw Error(ErrorKind::kUsage, "the terms of a sum are at different levels");

    std::vector<Poly> plain(terms.size());
    std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic)
    for (std::size_t i = 0; i < terms.size(); ++i) {
        try {
            std::vector<double> values(period);
            const auto& factor = factors[terms[i]];
            for (std::size_t k = 0; k < period; ++k)
                values[k] = factor[k % factor.size()];
            plain[i] = ckks::transform(*chain_, ckks::encode(values, scale), limbs, 0);
        }
        catch (...) {
#pragma omp critical
            failure = std::current_exception();
        }
    }
    if (failure)
        std::rethrow_exception(failure);

    ckks::Ciphertext out{Poly(limbs, n), Poly(limbs, n), first.scale * scale};
#pragma omp parallel for schedule(dynamic)
    for (std::size_t row = 0; row < limbs; ++row) {
        std::vector<const uint64_t*> c0, c1, factor;
        for (std::size_t i = 0; i < terms.size(); ++i) {
            c0.push_back(get(xs[terms[i]]).c0[row]);
            c1.push_back(get(xs[terms[i]]).c1[row]);
            factor.push_back(plain[i][row]);
        }
        const std::size_t repeat = n / (2 * period);
        ring::sum_of_products(out.c0[row], c0.data(), factor.data(), terms.size(), repeat, false, n, chain_->modulus(row));
        ring::sum_of_products(out.c1[row], c1.data(), factor.data(), terms.size(), repeat, false, n, chain_->modulus(row));
    }
    return wrap(std::move(out));
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
    const int left = level_after(level(x), chebyshev_depth(static_cast<int>(coefficients.size()) - 1), "polynomial");
    const int depth = ckks::series_depth(static_cast<int>(coefficients.size()) - 1);
    // The interface grants what OpenFHE needs; where ours needs less, the levels come off first, where they are free.
    auto ct = get(x).first(static_cast<std::size_t>(left + depth) + 1);
    return wrap(ckks::chebyshev(*chain_, keys_.relinearisation, ct, coefficients, scales_[left]));
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
