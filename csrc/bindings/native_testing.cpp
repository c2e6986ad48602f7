// fheinfer._core.testing: the parts of our evaluation one by one, and OpenFHE's to compare them with. For tests only.
#include "bindings/native_testing.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "base/error.h"
#include "ckks/random.h"
#include "crypto/native.h"
#include "crypto/oracle.h"

namespace py = pybind11;
using namespace fheinfer;

namespace {

using Words = py::array_t<uint64_t, py::array::c_style | py::array::forcecast>;

Bytes bytes(const py::bytes& b) {
    const auto view = static_cast<std::string_view>(b);
    return {reinterpret_cast<const std::byte*>(view.data()), view.size()};
}

void require(bool fits) {
    if (!fits)
        throw Error(ErrorKind::kUsage, "an array of another shape");
}

ckks::Poly poly(const ckks::Chain& chain, const uint64_t* from, std::size_t rows) {
    ckks::Poly out(rows, chain.n());
    std::copy_n(from, rows * chain.n(), out[0]);
    return out;
}

// A matrix of residues, a row for each prime.
ckks::Poly poly(const ckks::Chain& chain, const Words& x) {
    require(x.ndim() == 2 && static_cast<std::size_t>(x.shape(1)) == chain.n());
    return poly(chain, x.data(), static_cast<std::size_t>(x.shape(0)));
}

Words array(const ckks::Poly& x) {
    Words out({x.limbs(), x.n()});
    std::copy_n(x[0], x.limbs() * x.n(), out.mutable_data());
    return out;
}

ckks::Rounding rounding(bool rounded) {
    return rounded ? ckks::Rounding::kRounded : ckks::Rounding::kApproximate;
}

// b and a: digits x (limbs + specials) x N.
ckks::SwitchingKey switching_key(const ckks::Chain& chain, const Words& b, const Words& a, std::size_t limbs, std::size_t specials) {
    const std::size_t rows = limbs + specials;
    ckks::SwitchingKey key{limbs, specials, {}, {}};
    for (const auto& [words, halves] : {std::pair{&b, &key.b}, std::pair{&a, &key.a}}) {
        require(words->ndim() == 3 && static_cast<std::size_t>(words->shape(1)) == rows &&
                static_cast<std::size_t>(words->shape(2)) == chain.n());
        for (py::ssize_t j = 0; j < words->shape(0); ++j)
            halves->push_back(poly(chain, words->data(j, 0, 0), rows));
    }
    return key;
}

ckks::Seed seed(const py::bytes& b) {
    ckks::Seed out;
    require(bytes(b).size() == out.size());
    std::memcpy(out.data(), bytes(b).data(), out.size());
    return out;
}

}  // namespace

void bind_native_testing(py::module_& m) {
    auto t = m.def_submodule("testing", "Parts of the native evaluation, for tests.");
    t.attr("eval_mod_range") = ckks::kRange;
    t.attr("sparse_weight")  = ckks::kSparseWeight;
    t.def("specials_for", [](const Context& c, std::size_t limbs) { return c.chain()->specials_for(limbs); });
    t.def("per_digit", [](const Context& c) { return c.chain()->per_digit(); });
    t.def("series_depth", &ckks::series_depth);

    t.def("rescale", [](const Context& c, const py::bytes& x) {
        return py::bytes(ckks::write(*c.chain(), ckks::rescale(*c.chain(), ckks::read(*c.chain(), bytes(x)))));
    });
    t.def("openfhe_rescale", [](const Context& c, const py::bytes& x) { return py::bytes(openfhe_rescale(c, bytes(x))); });
    t.def("mod_up", [](const Context& c, const Words& x, std::size_t specials) {
        const auto chain = c.chain();
        std::vector<Words> out;
        for (const auto& digit : ckks::mod_up(*chain, poly(*chain, x), specials))
            out.push_back(array(digit));
        return out;
    });
    t.def("primes", [](const Context& c, int level) {
        const auto rows = c.chain()->rows(level);
        std::vector<uint64_t> out;
        for (std::size_t prime = rows.first; prime < rows.end(); ++prime)
            out.push_back(c.chain()->modulus(prime).p);
        return out;
    });
    t.def("divide", [](const Context& c, const Words& x, int level, int to, bool rounded) {
        const auto chain = c.chain();
        const auto from  = chain->rows(level);
        require(to <= level && static_cast<std::size_t>(x.shape(0)) >= from.limbs);
        const auto given = poly(*chain, x);
        ckks::Poly p(given.limbs(), given.n(), from.first);
        std::copy_n(given[0], given.limbs() * given.n(), p[0]);
        return array(ckks::divide(*chain, p, given.limbs() - from.limbs, chain->rows(to), rounding(rounded)));
    });
    t.def("switch_key",
          [](const Context& c, const Words& x, const Words& b, const Words& a, std::size_t limbs, std::size_t specials, bool rounded) {
              const auto chain = c.chain();
              const auto out   = ckks::switch_key(*chain, poly(*chain, x), switching_key(*chain, b, a, limbs, specials), rounding(rounded));
              return std::pair{array(out.b), array(out.a)};
          });

    t.def("chacha20_block", [](const py::bytes& key, uint32_t counter, const std::array<uint32_t, 3>& nonce) {
        return ckks::chacha20_block(seed(key), counter, nonce);
    });
    t.def("uniform", [](std::size_t n, uint64_t p, const py::bytes& key, uint32_t digit, uint32_t row) {
        Words out(static_cast<py::ssize_t>(n));
        ckks::uniform(out.mutable_data(), n, ring::Modulus(p), seed(key), digit, row);
        return out;
    });
}
