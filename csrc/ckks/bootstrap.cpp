#include "ckks/bootstrap.h"

#include <bit>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "base/parallel.h"
#include "ring/pointwise.h"

namespace fheinfer::ckks {

namespace {

// Range of the cosine's argument: with the quarter period that turns sine into cosine it stays even.
constexpr double kCosineRange = kRange + 0.25;

struct Group {
    std::vector<std::size_t> lengths;  // stages in the order they are applied
    bool wraps = false;                // holds the stage over all slots: offsets are cyclic
};

// Stages of the transform spread over `budget` matrices as evenly as they go, the larger ones first.
std::vector<Group> groups(std::size_t slots, int budget, bool to_slots) {
    std::vector<std::size_t> lengths;
    for (std::size_t length = 2; length <= slots; length *= 2)
        lengths.push_back(length);
    if (to_slots)
        lengths = {lengths.rbegin(), lengths.rend()};
    std::vector<Group> out(budget);
    std::size_t next = 0;
    for (int i = 0; i < budget; ++i) {
        const std::size_t take = (lengths.size() - next + budget - i - 1) / (budget - i);
        for (std::size_t k = 0; k < take; ++k) {
            out[i].wraps |= lengths[next] == slots;
            out[i].lengths.push_back(lengths[next++]);
        }
    }
    return out;
}

MatrixShape shape(const Group& group, std::size_t limbs, KeyPolicy keys) {
    std::size_t least = group.lengths[0], sum_of_halves = 0;
    for (std::size_t length : group.lengths) {
        least = std::min(least, length);
        sum_of_halves += length / 2;
    }
    const int stride = static_cast<int>(least / 2), far = static_cast<int>(sum_of_halves) / stride;
    const int lowest = group.wraps ? 0 : -far;
    return {Steps::fit(lowest, far, stride, keys), far - lowest + 1, limbs};
}

// One stage, or its inverse, as diagonals.
Diagonals stage(std::size_t slots, std::size_t length, bool inverse) {
    const auto w           = stage_factors(length);
    const std::size_t half = length / 2;
    const int h            = static_cast<int>(half);
    Diagonals d;
    for (int k : {0, h, -h})
        d[k].assign(slots, 0);
    for (std::size_t i = 0; i < slots; ++i) {
        const std::size_t j = i % length;
        if (j < half) {
            d[0][i] = inverse ? 0.5 : 1.0;
            d[h][i] = inverse ? Complex(0.5) : w[j];
        }
        else {
            d[0][i]  = inverse ? -0.5 * std::conj(w[j - half]) : -w[j - half];
            d[-h][i] = inverse ? 0.5 * std::conj(w[j - half]) : Complex(1.0);
        }
    }
    return d;
}

// First `first`, then `then`.
Diagonals compose(const Diagonals& then, const Diagonals& first) {
    Diagonals out;
    for (const auto& [a, x] : then)
        for (const auto& [b, y] : first) {
            const long slots = static_cast<long>(x.size());
            auto& d = out[a + b];
            d.resize(x.size());
            for (long i = 0; i < slots; ++i)
                d[i] += x[i] * y[((i + a) % slots + slots) % slots];
        }
    return out;
}

Diagonals matrix(const Group& group, std::size_t slots, bool to_slots, double factor) {
    Diagonals d;
    for (std::size_t length : group.lengths)
        d = d.empty() ? stage(slots, length, to_slots) : compose(stage(slots, length, to_slots), d);
    Diagonals out;
    for (auto& [k, values] : d) {
        const int n      = static_cast<int>(slots);
        const int offset = group.wraps ? (k % n + n) % n : k;
        auto& sum        = out[offset];
        sum.resize(slots);
        for (std::size_t i = 0; i < slots; ++i)
            sum[i] += values[i] * factor;
    }
    return out;
}

// Chebyshev coefficients of cos(2 pi kCosineRange x / 2^kDoubleAngles), which is even: the odd ones are exactly zero.
std::vector<double> cosine() {
    constexpr int kNodes = 128;
    const double a       = 2 * std::numbers::pi * kCosineRange / (1 << kDoubleAngles);
    std::vector<double> c(kEvalModSeriesDegree + 1);
    for (int k = 0; k <= kEvalModSeriesDegree; k += 2) {
        for (int i = 0; i < kNodes; ++i) {
            const double angle = std::numbers::pi * (i + 0.5) / kNodes;
            c[k] += std::cos(a * std::cos(angle)) * std::cos(k * angle);
        }
        c[k] *= (k ? 2.0 : 1.0) / kNodes;
    }
    return c;
}

}  // namespace

std::vector<MatrixShape> Bootstrap::matrices(const Chain& chain, const BootstrapParameters& p) {
    std::vector<MatrixShape> out;
    std::size_t limbs = static_cast<std::size_t>(p.stc_budget) + 1;
    for (const auto& group : groups(p.slots, p.stc_budget, false))
        out.push_back(shape(group, limbs--, p.keys));
    limbs = chain.q_count();
    for (const auto& group : groups(p.slots, p.cts_budget, true))
        out.push_back(shape(group, limbs--, p.keys));
    return out;
}

std::vector<RotationNeed> Bootstrap::rotations(const Chain& chain, const BootstrapParameters& p) {
    std::vector<RotationNeed> out;
    for (const auto& matrix : matrices(chain, p))
        for (int k : matrix.steps.rotations())
            out.push_back({k, matrix.limbs});
    for (std::size_t k = p.slots; k < chain.n() / 2; k *= 2)  // the trace to the subring of sparse packing
        out.push_back({static_cast<int>(k), chain.q_count()});
    return out;
}

Bootstrap::Bootstrap(const Chain& chain, const BootstrapParameters& p, const std::vector<double>& scales, const Keys& keys)
    : chain_(chain), parameters_(p), scales_(scales), cosine_(cosine()) {
    const double q0 = static_cast<double>(chain.modulus(0).p);
    const std::size_t low = static_cast<std::size_t>(p.stc_budget) + 1, top = chain.q_count();
    slot_to_coeff_ = factors(keys, false, low, scales[p.stc_budget], std::ldexp(q0, -kRatioBits), 1);
    // After ModRaise a coefficient is m + q_0 I; the trace multiplies it, the conjugate that is added doubles it.
    const double trace = static_cast<double>(chain.n() / (2 * p.slots));
    coeff_to_slot_ = factors(keys, true, top, trace * q0 * kCosineRange, scales[top - 1 - p.cts_budget], 0.5);
}

// Every matrix brings the scale an equal part of the way from `from` to `to`; the first one multiplies by `factor` too.
std::vector<Bootstrap::Factor> Bootstrap::factors(const Keys& keys, bool to_slots, std::size_t limbs, double from, double to,
                                                  double factor) const {
    const auto& p     = parameters_;
    const int budget  = to_slots ? p.cts_budget : p.stc_budget;
    const double part = std::pow(to / from, 1.0 / budget);
    std::vector<Factor> out;
    for (const auto& group : groups(p.slots, budget, to_slots)) {
        const double q   = static_cast<double>(chain_.modulus(limbs - 1).p);
        const auto order = shape(group, limbs, p.keys).steps;
        const auto& key  = keys.automorphism(ring::rotation_exponent(chain_.n(), order.rotations().at(0)), limbs);
        auto map         = matrix_map(matrix(group, p.slots, to_slots, factor), order);
        const Target target{{0, limbs}, key.specials, q * part};
        EncodedDiagonals diagonals(chain_, map, target, Tier::kEncoded, Window::all(map));
        map.write_complex = [](std::size_t, std::span<Complex>) {};  // encoded: what it was made of is given back
        out.push_back({std::move(map), target, std::move(diagonals)});
        factor = 1;
        --limbs;
    }
    return out;
}

Ciphertext Bootstrap::multiply(const Keys& keys, const std::vector<Factor>& factors, Ciphertext x) const {
    for (const auto& factor : factors) {
        const Ciphertext* xs[] = {&x};
        x = std::move(ckks::apply(chain_, keys, parameters_.keys, factor.map, factor.target, &factor.diagonals, xs)[0]);
    }
    return x;
}

Ciphertext Bootstrap::raise(const Keys& keys, const Ciphertext& x) const {
    const std::size_t n = chain_.n(), top = chain_.q_count();
    const auto& q0      = chain_.modulus(0);
    auto sparse         = switch_key(chain_, x.c1, keys.to_sparse);
    ring::add(sparse.b[0], sparse.b[0], x.c0[0], n, q0);
    chain_.ntt(0).inverse(sparse.b[0]);
    chain_.ntt(0).inverse(sparse.a[0]);

    // c1 is below q_0, so its key needs one digit and one special prime.
    const std::size_t specials = keys.to_dense.specials;
    Poly c0(top, n);
    std::vector<Poly> digit;
    digit.emplace_back(top + specials, n);
    parallel_for(top + specials, [&](std::size_t row) {
        const std::size_t prime = chain_.prime(row, top);
        const auto& m           = chain_.modulus(prime);
        ring::switch_modulus(digit[0][row], sparse.a[0], n, q0, m);
        chain_.ntt(prime).forward(digit[0][row]);
        if (row < top) {
            ring::switch_modulus(c0[row], sparse.b[0], n, q0, m);
            chain_.ntt(prime).forward(c0[row]);
        }
    });
    const auto product = inner_product(chain_, digit, keys.to_dense, top);
    Ciphertext out{divide(chain_, product.b, specials), divide(chain_, product.a, specials), 0};
    parallel_for(top, [&](std::size_t i) { ring::add(out.c0[i], out.c0[i], c0[i], n, chain_.modulus(i)); });
    return out;
}

Ciphertext Bootstrap::apply(const Keys& keys, const Ciphertext& x) const {
    const auto& p = parameters_;
    const auto low = multiply(keys, slot_to_coeff_, x.first(static_cast<std::size_t>(p.stc_budget) + 1));

    const double q0 = static_cast<double>(chain_.modulus(0).p);
    auto y          = raise(keys, low);
    double trace    = 1;
    for (std::size_t k = p.slots; k < chain_.n() / 2; k *= 2, trace *= 2)
        y = add(chain_, y, rotate(chain_, keys, y, ring::rotation_exponent(chain_.n(), static_cast<long>(k))));
    y.scale = trace * q0 * kCosineRange;
    y = multiply(keys, coeff_to_slot_, std::move(y));
    y = add(chain_, y, rotate(chain_, keys, y, 2 * chain_.n() - 1));  // twice the real part

    // sin(2 pi t) = cos(2 pi (t - 1/4)), and the message is q_0 / (2 pi scale) times that: an integer, the rest is made
    // up for in the scale.
    const int after  = chain_.level(y.c0) - kEvalModDepth;
    const double inverse_slope = q0 / (2 * std::numbers::pi * low.scale);
    const auto integer_factor = std::llround(inverse_slope);
    std::vector<double> targets{scales_[after] * inverse_slope / static_cast<double>(integer_factor)};
    for (int i = 1; i <= kDoubleAngles; ++i)
        targets.push_back(std::sqrt(targets.back() * static_cast<double>(chain_.modulus(after + i).p)));
    add_constant(chain_, y, -0.25 / kCosineRange);
    y = chebyshev(chain_, keys.relinearisation, y, cosine_, targets.back());
    for (int i = 0; i < kDoubleAngles; ++i)
        y = double_product(chain_, keys.relinearisation, y, y, nullptr);
    y       = multiply_integer(chain_, y, integer_factor);
    y.scale = scales_[after];
    return y;
}

}  // namespace fheinfer::ckks
