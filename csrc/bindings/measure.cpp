// What this machine is and how fast its arithmetic: for `fheinfer bench`.
#include <algorithm>
#include <chrono>

#include "base/cpu.h"
#include "bindings/common.h"
#include "crypto/oracle.h"
#include "ring/accumulate.h"
#include "ring/ntt.h"
#include "ring/poly.h"

namespace fheinfer::bindings {

namespace {

using Milliseconds = std::vector<std::pair<double, double>>;

template <class F>
double ms(const F& f) {
    const auto start = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

void check(std::size_t n, uint64_t p) {
    if (n < 16 || n % 16 || n > std::size_t{1} << 17 || p <= 2 || p % 2 == 0 || p >> ring::kMaxPrimeBits)
        throw Error(ErrorKind::kUsage, "a limb has a multiple of 16 and up to 2^17 residues; its modulus is odd, above 2 and below 2^50");
}

// A transform and its inverse, `repeats` times.
Milliseconds ntt_ms(std::size_t n, uint64_t p, int repeats) {
    check(n, p);
    const OpenFheLimb limb(n, p, std::vector<uint64_t>(n, 1), false);
    const ring::Ntt ntt(n, ring::Modulus(p), limb.psi());
    ring::Poly x(1, n);
    std::fill_n(x[0], n, 1);
    Milliseconds out;
    for (int i = 0; i < repeats; ++i) {
        const double forward = ms([&] { ntt.forward(x[0]); });
        out.emplace_back(forward, ms([&] { ntt.inverse(x[0]); }));
    }
    return out;
}

Milliseconds openfhe_ntt_ms(std::size_t n, uint64_t p, int repeats) {
    check(n, p);
    OpenFheLimb limb(n, p, std::vector<uint64_t>(n, 1), false);
    Milliseconds out;
    for (int i = 0; i < repeats; ++i) {
        const double forward = ms([&] { limb.transform(); });
        out.emplace_back(forward, ms([&] { limb.transform(); }));
    }
    return out;
}

// The least of `repeats` base conversions of 16 limbs to 16 in the second cache, for one limb times a constant.
double conversion_ms(std::size_t n, uint64_t p, int repeats) {
    check(n, p);
    constexpr std::size_t kLimbs = 16;
    const std::size_t part       = std::min<std::size_t>(n, 2048);
    const ring::Modulus m(p);
    ring::Poly xs(kLimbs, part), outs(kLimbs, part);
    std::fill_n(xs[0], kLimbs * part, 1);
    const std::vector<uint64_t> ones(kLimbs, 1);
    std::vector<const uint64_t*> x(kLimbs), c(kLimbs, ones.data());
    std::vector<uint64_t*> out(kLimbs);
    const std::vector<const ring::Modulus*> moduli(kLimbs, &m);
    for (std::size_t i = 0; i < kLimbs; ++i) {
        x[i]   = xs[i];
        out[i] = outs[i];
    }
    double least = 1e9;
    for (int i = 0; i < repeats; ++i)
        least = std::min(least, ms([&] { ring::linear_combinations(out.data(), kLimbs, x.data(), c.data(), kLimbs, false, part, moduli.data()); }));
    return least / (kLimbs * kLimbs) * static_cast<double>(n / part);
}

}  // namespace

void bind_measure(py::module_& m) {
    m.def("instruction_set", [] { return std::string(instruction_set_name()); });
    m.def("instruction_sets", &instruction_sets);
    m.def("set_instruction_set", [](const std::string& name) { set_instruction_set(name.c_str()); }, py::arg("name"));
    m.def("threads", [] { return omp_get_max_threads(); });
    m.def("set_threads", [](int threads) {
        if (threads < 1)
            throw Error(ErrorKind::kUsage, "an evaluation has one thread or more, not " + std::to_string(threads));
        omp_set_num_threads(threads);
    }, py::arg("threads"));
    m.def("ntt_ms", &ntt_ms, py::arg("n"), py::arg("p"), py::arg("repeats"), py::call_guard<LongCall>());
    m.def("openfhe_ntt_ms", &openfhe_ntt_ms, py::arg("n"), py::arg("p"), py::arg("repeats"), py::call_guard<LongCall>());
    m.def("conversion_ms", &conversion_ms, py::arg("n"), py::arg("p"), py::arg("repeats") = 100, py::call_guard<LongCall>());
}

}  // namespace fheinfer::bindings
