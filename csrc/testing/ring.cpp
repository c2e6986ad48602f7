// fheinfer._testing.ring: the ring arithmetic, and OpenFHE's to compare it with.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>

#include "base/cpu.h"
#include "crypto/oracle.h"
#include "ring/accumulate.h"
#include "ring/automorphism.h"
#include "ring/convert.h"
#include "ring/ntt.h"
#include "ring/pointwise.h"
#include "testing/checks.h"

namespace py = pybind11;

namespace fheinfer::testing {

using namespace ring;

namespace {

using Limb = py::array_t<uint64_t, py::array::c_style | py::array::forcecast>;

std::size_t length(const Limb& x) {
    if (x.ndim() != 1 || x.size() % 16)
        throw Error(ErrorKind::kUsage, "a limb has one dimension, of a multiple of 16");
    return static_cast<std::size_t>(x.size());
}

std::size_t common_length(const Limb& x, const Limb& y) {
    if (length(x) != length(y))
        throw Error(ErrorKind::kUsage, "limbs of different sizes");
    return length(x);
}

Limb empty(std::size_t n) {
    return Limb(static_cast<py::ssize_t>(n));
}

Limb copy(const Limb& x) {
    return Limb(x.size(), x.data());
}

std::size_t columns(const Limb& x) {
    require(x.ndim() == 2, "expected a matrix");
    return static_cast<std::size_t>(x.shape(1));
}

// The rows of a matrix of `columns`.
std::vector<const uint64_t*> rows(const Limb& x, std::size_t columns) {
    if (x.ndim() != 2 || static_cast<std::size_t>(x.shape(1)) != columns || x.shape(0) > static_cast<py::ssize_t>(kMaxTerms))
        throw Error(ErrorKind::kUsage, "a matrix of another shape");
    std::vector<const uint64_t*> out;
    for (py::ssize_t r = 0; r < x.shape(0); ++r)
        out.push_back(x.data(r, 0));
    return out;
}

void bind_elements(py::module_& m) {
    using Binary = void (*)(uint64_t*, const uint64_t*, const uint64_t*, std::size_t, const Modulus&);
    const auto binary = [&m](const char* name, Binary f) {
        m.def(name, [f](const Limb& x, const Limb& y, uint64_t p) {
            Limb out = empty(common_length(x, y));
            f(out.mutable_data(), x.data(), y.data(), length(x), modulus(p));
            return out;
        });
    };
    binary("add", &add);
    binary("subtract", &subtract);
    binary("multiply", &multiply);
    m.def("multiply_by", [](const Limb& x, uint64_t factor, uint64_t p) {
        const Modulus m = modulus(p);
        Limb out = empty(length(x));
        multiply(out.mutable_data(), x.data(), testing::factor(factor, m), length(x), m);
        return out;
    });
    m.def("subtract_multiply", [](const Limb& x, const Limb& y, uint64_t factor, uint64_t p) {
        const Modulus m = modulus(p);
        Limb out = empty(common_length(x, y));
        subtract_multiply(out.mutable_data(), x.data(), y.data(), testing::factor(factor, m), length(x), m);
        return out;
    });
    m.def("switch_modulus", [](const Limb& x, uint64_t from, uint64_t p) {
        Limb out = empty(length(x));
        switch_modulus(out.mutable_data(), x.data(), length(x), modulus(from), modulus(p));
        return out;
    });
    m.def("lift", [](const py::array_t<int64_t, py::array::c_style | py::array::forcecast>& x, uint64_t p) {
        if (x.size() % 16)
            throw Error(ErrorKind::kUsage, "a limb has a multiple of 16 residues");
        Limb out = empty(static_cast<std::size_t>(x.size()));
        lift(out.mutable_data(), x.data(), static_cast<std::size_t>(x.size()), modulus(p));
        return out;
    });
}

// start: what the sums are added to, or None.
void bind_sums(py::module_& m) {
    m.def("sum_of_products",
          [](const Limb& xs, const Limb& ys, std::size_t repeat, uint64_t p, const std::optional<Limb>& start) {
              const auto n = columns(xs);
              require(repeat >= 1 && n % repeat == 0 && n % 16 == 0, "operands of different shapes");
              const auto x = rows(xs, n), y = rows(ys, n / repeat);
              Limb out     = start ? copy(*start) : empty(n);
              if (length(out) != n || x.size() != y.size() || n % repeat)
                  throw Error(ErrorKind::kUsage, "operands of different shapes");
              sum_of_products(out.mutable_data(), x.data(), y.data(), x.size(), repeat, start.has_value(), n, modulus(p));
              return out;
          });
    m.def("linear_combinations",
          [](const Limb& xs, const Limb& cs, const std::vector<uint64_t>& primes, const std::optional<Limb>& start) {
              const auto n    = columns(xs);
              const auto x    = rows(xs, n);
              const auto c    = rows(cs, x.size());
              const auto from = start ? rows(*start, n) : std::vector<const uint64_t*>(c.size());
              if (n % 16 || c.size() != primes.size() || from.size() != c.size())
                  throw Error(ErrorKind::kUsage, "operands of different shapes");
              Limb out({c.size(), n});
              std::vector<uint64_t*> outs;
              std::vector<Modulus> moduli;
              for (uint64_t p : primes)
                  moduli.push_back(modulus(p));
              std::vector<const Modulus*> ms;
              for (std::size_t k = 0; k < c.size(); ++k) {
                  outs.push_back(out.mutable_data(static_cast<py::ssize_t>(k), 0));
                  ms.push_back(&moduli[k]);
                  if (start)
                      std::copy_n(from[k], n, outs[k]);
              }
              linear_combinations(outs.data(), outs.size(), x.data(), c.data(), x.size(), start.has_value(), n, ms.data());
              return out;
          });
    m.def("rounded_quotient", [](const Limb& ys, const std::vector<uint64_t>& fractions, int bits) {
        const auto n = columns(ys);
        const auto y = rows(ys, n);
        require(n % 16 == 0 && y.size() == fractions.size(), "operands of different shapes");
        require(bits >= 1 && bits < 52, "a fraction has 1 to 51 bits more than 52");
        Limb out = empty(n);
        rounded_quotient(out.mutable_data(), y.data(), fractions.data(), y.size(), bits, n);
        return out;
    });
}

void bind_automorphism(py::module_& m) {
    m.def("rotation_exponent", &rotation_exponent);
    m.def("automorphism", [](const Limb& x, uint64_t k) {
        require(std::has_single_bit(length(x)) && k % 2 == 1, "an automorphism is odd, of a power of two of residues");
        Limb out = empty(length(x));
        permute(out.mutable_data(), x.data(), automorphism(length(x), k));
        return out;
    });
}

void bind_transform(py::module_& m) {
    py::class_<Ntt>(m, "Ntt")
        .def(py::init([](std::size_t n, uint64_t p, uint64_t psi) { return Ntt(n, modulus(p), psi); }))
        .def("forward",
             [](const Ntt& ntt, const Limb& x) {
                 Limb out = copy(x);
                 if (length(out) != ntt.size())
                     throw Error(ErrorKind::kUsage, "a limb of another size");
                 ntt.forward(out.mutable_data());
                 return out;
             })
        .def("inverse",
             [](const Ntt& ntt, const Limb& x) {
                 Limb out = copy(x);
                 if (length(out) != ntt.size())
                     throw Error(ErrorKind::kUsage, "a limb of another size");
                 ntt.inverse(out.mutable_data());
                 return out;
             });
    py::class_<OpenFheLimb>(m, "OpenFheLimb")
        .def(py::init([](std::size_t n, uint64_t p, const std::vector<uint64_t>& x, bool evaluation) {
            return std::make_unique<OpenFheLimb>(n, p, x, evaluation);
        }))
        .def_property_readonly("psi", &OpenFheLimb::psi)
        .def("values",
             [](const OpenFheLimb& limb) {
                 const auto v = limb.values();
                 return Limb(static_cast<py::ssize_t>(v.size()), v.data());
             })
        .def("transform", &OpenFheLimb::transform)
        .def("automorphism", &OpenFheLimb::automorphism);
}

// In this module and in _core, which has a choice of its own.
void set_instruction_set(const std::string& name) {
    py::module_::import("fheinfer._core").attr("set_instruction_set")(name);
    fheinfer::set_instruction_set(name.c_str());
}

}  // namespace

void bind_ring(py::module_& m) {
    auto ring = m.def_submodule("ring", "Ring arithmetic. Limbs are arrays of uint64.");
    ring.def("instruction_set", [] { return std::string(instruction_set_name()); });
    ring.def("instruction_sets", &instruction_sets);
    ring.def("set_instruction_set", &set_instruction_set);
    bind_elements(ring);
    bind_sums(ring);
    bind_automorphism(ring);
    bind_transform(ring);
}

}  // namespace fheinfer::testing
