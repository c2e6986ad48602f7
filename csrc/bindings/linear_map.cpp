#include "bindings/linear_map.h"

#include <pybind11/complex.h>

#include <memory>

#include "bindings/common.h"
#include "ckks/schedule.h"
#include "evaluator/constants.h"
#include "kernels/conv2d.h"
#include "kernels/linear.h"

namespace fheinfer::bindings {

namespace {

using Ct = std::shared_ptr<Ciphertext>;
// pybind holds ciphertexts by pointer to non-const; nothing that is bound changes one.
Ct out(const CiphertextPtr& x) {
    return std::const_pointer_cast<Ciphertext>(x);
}

std::vector<Ct> out(const std::vector<CiphertextPtr>& xs) {
    std::vector<Ct> ys;
    for (const auto& x : xs)
        ys.push_back(out(x));
    return ys;
}

std::vector<CiphertextPtr> in(const std::vector<Ct>& xs) {
    return {xs.begin(), xs.end()};
}

// By its diagonals: `period` values each, or none for one that is zero.
template <typename Value>
auto writer(std::shared_ptr<const std::vector<std::vector<Value>>> values) {
    return [values = std::move(values)](std::size_t index, std::span<Value> zeros) {
        for (std::size_t i = 0; i < zeros.size(); ++i)
            zeros[i] += (*values)[index][i];
    };
}

template <typename Value>
auto set_present(LinearMap& map, std::vector<std::vector<Value>> values) {
    map.present.clear();
    for (const auto& d : values) {
        if (!d.empty() && d.size() != map.period)
            throw Error(ErrorKind::kPlan, "a diagonal of " + std::to_string(d.size()) + " values in a linear map of period " +
                                              std::to_string(map.period));
        map.present.push_back(!d.empty());
    }
    return writer<Value>(std::make_shared<const std::vector<std::vector<Value>>>(std::move(values)));
}

LinearMap of_diagonals(std::size_t period, const py::list& diagonals, bool is_complex, int inputs, int outputs,
                       const std::vector<int>& first, const std::vector<int>& second, int row_steps, int row_stride, int block_steps,
                       int block_stride, int shift, const std::vector<int>& rotate_and_sum, bool double_hoisting) {
    LinearMap map;
    map.period         = period;
    map.inputs         = inputs;
    map.outputs        = outputs;
    map.first          = first;
    map.second         = second;
    map.row_steps      = row_steps;
    map.row_stride     = row_stride;
    map.block_steps    = block_steps;
    map.block_stride   = block_stride;
    map.shift          = shift;
    map.rotate_and_sum = rotate_and_sum;
    map.hoisting       = double_hoisting ? Hoisting::kDouble : Hoisting::kSingle;
    if (is_complex)
        map.write_complex = set_present(map, diagonals.cast<std::vector<std::vector<std::complex<double>>>>());
    else
        map.write = set_present(map, diagonals.cast<std::vector<std::vector<double>>>());
    map.check();
    return map;
}

}  // namespace

void bind_linear_map(py::module_& m) {
    py::enum_<ckks::Tier>(m, "Tier")
        .value("streamed", ckks::Tier::kStreamed)
        .value("coefficients", ckks::Tier::kCoefficients)
        .value("encoded", ckks::Tier::kEncoded);

    py::class_<LinearMap>(m, "LinearMap")
        .def(py::init(&of_diagonals), py::arg("period"), py::arg("diagonals"), py::kw_only(), py::arg("is_complex") = false,
             py::arg("inputs") = 1, py::arg("outputs") = 1, py::arg("first") = std::vector<int>{0},
             py::arg("second") = std::vector<int>{0}, py::arg("row_steps") = 1, py::arg("row_stride") = 0,
             py::arg("block_steps") = 1, py::arg("block_stride") = 0, py::arg("shift") = 0,
             py::arg("rotate_and_sum") = std::vector<int>{}, py::arg("double_hoisting") = false)
        .def_static("conv2d",
                    [](const Doubles& weight, const Layout& from, const Layout& to, const Conv2d& conv) {
                        return conv2d_map(view(weight), from, to, conv);
                    })
        .def_static("linear",
                    [](const Doubles& weight, const Layout& from, const Layout& to, bool mask) {
                        return linear_layer_map(view(weight), from, to, mask);
                    })
        .def(
            "working_bytes",
            [](const LinearMap& map, std::size_t n, std::size_t limbs, std::size_t specials, std::size_t digits) {
                return ckks::working_bytes(map, {n, limbs, specials, digits}, ckks::working_limit());
            },
            py::arg("ring"), py::arg("limbs"), py::arg("special_primes"), py::arg("digits"))
        .def(
            "schedule",
            [](const LinearMap& map, std::size_t n, std::size_t limbs, std::size_t specials, std::size_t digits) {
                const auto s = ckks::schedule(map, {n, limbs, specials, digits}, false, ckks::working_limit());
                return std::make_tuple(s.inputs, s.sums, s.passes);
            },
            py::arg("ring"), py::arg("limbs"), py::arg("special_primes"), py::arg("digits"))
        .def_readonly("period", &LinearMap::period)
        .def_readonly("inputs", &LinearMap::inputs)
        .def_readonly("outputs", &LinearMap::outputs);

    m.def("working_limit", &ckks::working_limit);
    m.def("set_working_limit", &ckks::set_working_limit, py::arg("bytes"));

    py::class_<LinearMapConstants>(m, "LinearMapConstants")
        .def(py::init<LinearMap, ckks::Tier>(), py::arg("map"), py::arg("tier"))
        .def_property_readonly("tier", &LinearMapConstants::tier)
        .def_property_readonly("map", &LinearMapConstants::map)
        .def_property_readonly("held_bytes", [](const LinearMapConstants& c) { return c.bytes(); })
        .def("bytes", [](const LinearMapConstants& c, ckks::Tier tier, std::size_t limbs) { return c.bytes(tier, limbs); },
             py::arg("tier"), py::arg("limbs"));

    const auto linear_map = [](Evaluator& e, const std::vector<Ct>& xs, const LinearMap& map) {
        const LongCall call;
        return out(e.linear_map(in(xs), map));
    };
    const auto with_constants = [](Evaluator& e, const std::vector<Ct>& xs, LinearMapConstants& constants) {
        const LongCall call;
        return out(e.linear_map(in(xs), constants));
    };
    m.def("linear_map", linear_map, py::arg("evaluator"), py::arg("xs"), py::arg("map"));
    m.def("linear_map", with_constants, py::arg("evaluator"), py::arg("xs"), py::arg("map"));
    m.def(
        "elementary_linear_map",
        [](Evaluator& e, const std::vector<Ct>& xs, const LinearMap& map) {
            const LongCall call;
            return out(e.elementary_linear_map(in(xs), map));
        },
        py::arg("evaluator"), py::arg("xs"), py::arg("map"));

    m.def(
        "conv2d",
        [](Evaluator& e, const Ct& x, const Doubles& weight, const Doubles& bias, const Layout& from, const Layout& to,
           const Conv2d& conv, LinearMapConstants* constants) {
            const auto w = view(weight), b = view(bias);
            const LongCall call;
            return out(constants ? conv2d_bias(e, e.linear_map(x, *constants), b, to) : conv2d(e, x, w, b, from, to, conv));
        },
        py::arg("evaluator"), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("in_layout"), py::arg("out_layout"),
        py::arg("conv"), py::arg("constants") = nullptr);
    m.def(
        "linear",
        [](Evaluator& e, const Ct& x, const Doubles& weight, const Doubles& bias, const Layout& from, const Layout& to, bool mask,
           LinearMapConstants* constants) {
            const auto w = view(weight), b = view(bias);
            const LongCall call;
            return out(constants ? linear_tail(e, e.linear_map(x, *constants), b, to, mask) : linear(e, x, w, b, from, to, mask));
        },
        py::arg("evaluator"), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("in_layout"), py::arg("out_layout"),
        py::arg("mask"), py::arg("constants") = nullptr);
}

}  // namespace fheinfer::bindings
