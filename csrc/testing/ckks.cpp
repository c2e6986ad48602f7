// fheinfer._testing.ckks: parts of the native backend, and OpenFHE's to compare them with.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "ckks/random.h"
#include "crypto/native.h"
#include "testing/checks.h"

namespace py = pybind11;

namespace fheinfer::testing {

namespace {

using Words = py::array_t<uint64_t, py::array::c_style | py::array::forcecast>;

Bytes bytes(const py::bytes& b) {
    const auto view = static_cast<std::string_view>(b);
    return {reinterpret_cast<const std::byte*>(view.data()), view.size()};
}

constexpr const char* kShape = "an array of another shape";

// Fewer special primes than there are, or as many.
void check_special(const ckks::Chain& chain, std::size_t count) {
    require(count <= chain.special_count(), "more special primes than the chain has");
}

void check_level(const ckks::Chain& chain, int level) {
    require(level >= 0 && chain.rows(level).end() <= chain.q_count(), "a level that the chain does not have");
}

// Divided by its last prime, by OpenFHE.
std::string openfhe_rescale(const Context& context, Bytes ciphertext) {
    auto x = read_ciphertext(context, "testing", ciphertext);
    x->SetNoiseScaleDeg(2);
    context.openfhe()->GetScheme()->ModReduceInternalInPlace(x, 1);
    return write_ciphertext(context, x);
}

ckks::Poly poly(const ckks::Chain& chain, const uint64_t* from, std::size_t rows) {
    ckks::Poly out(rows, chain.n());
    std::copy_n(from, rows * chain.n(), out[0]);
    return out;
}

// A matrix of residues, a row for each prime.
ckks::Poly poly(const ckks::Chain& chain, const Words& x) {
    require(x.ndim() == 2 && static_cast<std::size_t>(x.shape(1)) == chain.n(), kShape);
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

// b and a: digits x (limbs + special primes) x N.
ckks::SwitchingKey switching_key(const ckks::Chain& chain, const Words& b, const Words& a, std::size_t limbs, std::size_t specials) {
    const std::size_t rows = limbs + specials;
    ckks::SwitchingKey key{limbs, specials, {}, {}};
    for (const auto& [words, halves] : {std::pair{&b, &key.b}, std::pair{&a, &key.a}}) {
        require(words->ndim() == 3 && static_cast<std::size_t>(words->shape(1)) == rows &&
                static_cast<std::size_t>(words->shape(2)) == chain.n(), kShape);
        for (py::ssize_t j = 0; j < words->shape(0); ++j)
            halves->push_back(poly(chain, words->data(j, 0, 0), rows));
    }
    return key;
}

ckks::Seed seed(const py::bytes& b) {
    ckks::Seed out;
    require(bytes(b).size() == out.size(), "a seed has 32 bytes");
    std::memcpy(out.data(), bytes(b).data(), out.size());
    return out;
}

}  // namespace

void bind_ckks(py::module_& m) {
    auto t = m.def_submodule("ckks", "Parts of the native evaluation.");
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
        check_special(*chain, specials);
        require(x.ndim() == 2 && x.shape(0) >= 1 && static_cast<std::size_t>(x.shape(0)) <= chain->q_count(), kShape);
        std::vector<Words> out;
        for (const auto& digit : ckks::mod_up(*chain, poly(*chain, x), specials))
            out.push_back(array(digit));
        return out;
    });
    t.def("primes", [](const Context& c, int level) {
        check_level(*c.chain(), level);
        const auto rows = c.chain()->rows(level);
        std::vector<uint64_t> out;
        for (std::size_t prime = rows.first; prime < rows.end(); ++prime)
            out.push_back(c.chain()->modulus(prime).p);
        return out;
    });
    t.def("divide", [](const Context& c, const Words& x, int level, int to, bool rounded) {
        const auto chain = c.chain();
        check_level(*chain, level);
        check_level(*chain, to);
        const auto from = chain->rows(level);
        require(x.ndim() == 2 && to <= level && static_cast<std::size_t>(x.shape(0)) >= from.limbs, kShape);
        check_special(*chain, static_cast<std::size_t>(x.shape(0)) - from.limbs);
        const auto given = poly(*chain, x);
        ckks::Poly p(given.limbs(), given.n(), from.first);
        std::copy_n(given[0], given.limbs() * given.n(), p[0]);
        return array(ckks::divide(*chain, p, given.limbs() - from.limbs, chain->rows(to), rounding(rounded)));
    });
    t.def("switch_key",
          [](const Context& c, const Words& x, const Words& b, const Words& a, std::size_t limbs, std::size_t specials, bool rounded) {
              const auto chain = c.chain();
              check_special(*chain, specials);
              require(limbs >= 1 && limbs <= chain->q_count() && x.ndim() == 2 && x.shape(0) >= 1 &&
                          static_cast<std::size_t>(x.shape(0)) <= limbs,
                      kShape);
              const auto out = ckks::switch_key(*chain, poly(*chain, x), switching_key(*chain, b, a, limbs, specials), rounding(rounded));
              return std::pair{array(out.b), array(out.a)};
          });

    t.def("chacha20_block", [](const py::bytes& key, uint32_t counter, const std::array<uint32_t, 3>& nonce) {
        return ckks::chacha20_block(seed(key), counter, nonce);
    });
    t.def("uniform", [](std::size_t n, uint64_t p, const py::bytes& key, uint32_t digit, uint32_t row) {
        Words out(static_cast<py::ssize_t>(n));
        ckks::uniform(out.mutable_data(), n, modulus(p), seed(key), digit, row);
        return out;
    });
}

}  // namespace fheinfer::testing
