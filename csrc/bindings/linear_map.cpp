#include "bindings/linear_map.h"

#include <pybind11/complex.h>

#include <algorithm>
#include <memory>

#include "bindings/common.h"
#include "ckks/schedule.h"
#include "evaluator/constants.h"
#include "kernels/map_builder.h"

namespace fheinfer::bindings {

namespace {

using Ct = std::shared_ptr<Ciphertext>;
using Places = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;
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
        .def_readonly("outputs", &LinearMap::outputs)
        .def_readonly("first", &LinearMap::first)
        .def_readonly("second", &LinearMap::second)
        .def_readonly("rotate_and_sum", &LinearMap::rotate_and_sum)
        .def_property_readonly("giant_steps", &LinearMap::giant_steps)
        .def_property_readonly("diagonals",
                               [](const LinearMap& map) { return std::count(map.present.begin(), map.present.end(), 1); });

    py::class_<MapBuilder>(m, "MapBuilder")
        .def(py::init([](int inputs, std::size_t in_period, std::size_t in_rotation, int outputs, std::size_t out_period,
                         std::size_t out_rotation, std::size_t block, bool shape_only) {
                 return MapBuilder({inputs, in_period, in_rotation}, {outputs, out_period, out_rotation}, block, shape_only);
             }),
             py::arg("inputs"), py::arg("in_period"), py::arg("in_rotation"), py::arg("outputs"), py::arg("out_period"),
             py::arg("out_rotation"), py::arg("block") = 1, py::arg("shape_only") = false)
        .def("add",
             [](MapBuilder& b, std::pair<int, int> size, std::pair<int, int> in_strides, std::pair<int, int> out_strides,
                const Places& outs, const Places& ins, const py::array& weights, int groups) {
                 const Pattern pattern{size.first, size.second, in_strides.first, in_strides.second, out_strides.first, out_strides.second};
                 const std::span<const int64_t> to(outs.data(), static_cast<std::size_t>(outs.size()));
                 const std::span<const int64_t> from(ins.data(), static_cast<std::size_t>(ins.size()));
                 if (b.shape_only())  // of broadcast ones, which are no array in memory
                     b.add(pattern, to, from, {}, groups);
                 else
                     b.add(pattern, to, from, view(Doubles(weights)), groups);
             },
             py::arg("size"), py::arg("in_strides"), py::arg("out_strides"), py::arg("outs"), py::arg("ins"), py::arg("weights"),
             py::arg("groups") = 1)
        .def("finish", [](MapBuilder& b) { return LongCall(), b.finish(); });

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
}

}  // namespace fheinfer::bindings
