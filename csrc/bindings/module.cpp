// fheinfer._core: the C++ core for the Python package. Private; the package re-exports what is public.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "base/memory.h"
#include "bindings/errors.h"
#include "bindings/linear_map.h"
#include "bindings/native_testing.h"
#include "bindings/ring.h"
#include "crypto/export.h"
#include "crypto/native.h"
#include "evaluator/openfhe.h"
#include "evaluator/slots.h"
#include "evaluator/trace.h"
#include "evaluator/two_inputs.h"
#include "kernels/conv2d.h"
#include "kernels/linear.h"

namespace py = pybind11;
using namespace fheinfer;

namespace {

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Release = py::gil_scoped_release;

std::span<const double> view(const Doubles& a) {
    return {a.data(), static_cast<std::size_t>(a.size())};
}

Doubles array(const std::vector<double>& v) {
    return Doubles(static_cast<py::ssize_t>(v.size()), v.data());
}

// A view of any contiguous bytes-like object (bytes, memoryview, mmap), valid while the buffer_info lives.
struct Buffer {
    explicit Buffer(const py::buffer& b) : info(b.request()) {
        if (info.ndim != 1 || info.itemsize != 1 || (info.size > 1 && info.strides[0] != 1))
            throw Error(ErrorKind::kUsage, "expected contiguous bytes");
    }
    Bytes bytes() const {
        return {static_cast<const std::byte*>(info.ptr), static_cast<std::size_t>(info.size)};
    }
    py::buffer_info info;
};

void bind_layout(py::module_& m) {
    py::class_<Layout>(m, "Layout")
        .def(py::init([](int c, int h, int w, int gap, int gh, int gw, int replica_rotation) {
                 Layout l{c, h, w, gap, gh, gw, replica_rotation};
                 l.check();
                 return l;
             }),
             py::arg("channels"), py::arg("height"), py::arg("width"), py::arg("gap"), py::arg("grid_height"),
             py::arg("grid_width"), py::arg("replica_rotation") = 0)
        .def_readonly("channels", &Layout::channels)
        .def_readonly("height", &Layout::height)
        .def_readonly("width", &Layout::width)
        .def_readonly("gap", &Layout::gap)
        .def_readonly("grid_height", &Layout::grid_height)
        .def_readonly("grid_width", &Layout::grid_width)
        .def_readonly("replica_rotation", &Layout::replica_rotation)
        .def_property_readonly("blocks", &Layout::blocks)
        .def_property_readonly("replicas", &Layout::replicas)
        .def_property_readonly("period", &Layout::period)
        .def("slot", &Layout::slot)
        .def("__repr__", &Layout::str);
    py::class_<Conv2d>(m, "Conv2d")
        .def(py::init<int, int, int>(), py::arg("kernel"), py::arg("stride"), py::arg("padding"));
    m.def("conv2d_output", &conv2d_output);
    m.def("sum_pool_output", &sum_pool_output);
    m.def("linear_output", &linear_output);
}

// pybind holds ciphertexts by pointer to non-const; nothing that is bound changes one.
std::shared_ptr<Ciphertext> out(const CiphertextPtr& x) {
    return std::const_pointer_cast<Ciphertext>(x);
}

void bind_evaluators(py::module_& m) {
    py::class_<Ciphertext, std::shared_ptr<Ciphertext>>(m, "Ciphertext");
    py::enum_<KeyPolicy>(m, "KeyPolicy").value("minimal", KeyPolicy::kMinimal).value("fast", KeyPolicy::kFast);
    py::class_<LevelModel>(m, "LevelModel")
        .def(py::init<int, int, int, bool, bool>(), py::arg("top"), py::arg("after_bootstrap"), py::arg("bootstrap_min"),
             py::arg("openfhe_series") = false, py::arg("paired") = false)
        .def_readonly("top", &LevelModel::top)
        .def_readonly("after_bootstrap", &LevelModel::after_bootstrap)
        .def_readonly("bootstrap_min", &LevelModel::bootstrap_min)
        .def("limbs", &LevelModel::limbs, py::arg("level"))
        .def("chebyshev_depth", &LevelModel::chebyshev_depth, py::arg("degree"));

    using Ct       = std::shared_ptr<Ciphertext>;
    py::class_<Evaluator>(m, "Evaluator")
        .def_property_readonly("slots", &Evaluator::slots)
        .def_property_readonly("levels", &Evaluator::levels)
        .def("level", [](const Evaluator& e, const Ct& x) { return e.level(x); })
        .def("add", [](Evaluator& e, const Ct& x, const Ct& y) { return Release(), out(e.add(x, y)); })
        .def("add_plain",
             [](Evaluator& e, const Ct& x, const Doubles& v) {
                 const auto values = view(v);
                 return Release(), out(e.add_plain(x, values));
             })
        .def("multiply_plain",
             [](Evaluator& e, const Ct& x, const Doubles& v) {
                 const auto values = view(v);
                 return Release(), out(e.multiply_plain(x, values));
             })
        .def("multiply", [](Evaluator& e, const Ct& x, const Ct& y) { return Release(), out(e.multiply(x, y)); })
        .def("rotate", [](Evaluator& e, const Ct& x, int k) { return Release(), out(e.rotate(x, k)); })
        .def("rotate_many",
             [](Evaluator& e, const Ct& x, const std::vector<int>& ks) {
                 std::vector<Ct> rotated;
                 Release release;
                 for (auto& y : e.rotate_many(x, ks))
                     rotated.push_back(out(y));
                 return rotated;
             })
        .def("chebyshev",
             [](Evaluator& e, const Ct& x, const std::vector<double>& c) { return Release(), out(e.chebyshev(x, c)); })
        .def("bootstrap", [](Evaluator& e, const Ct& x) { return Release(), out(e.bootstrap(x)); })
        .def("drop_to", [](Evaluator& e, const Ct& x, int level) { return Release(), out(e.drop_to(x, level)); });

    m.def("sum_pool", [](Evaluator& e, const Ct& x, const Layout& in) { return Release(), out(sum_pool(e, x, in)); });

    py::class_<SlotsEvaluator, Evaluator>(m, "SlotsEvaluator")
        .def(py::init<std::size_t, LevelModel, KeyPolicy>(), py::arg("slots"), py::arg("levels"),
             py::arg("keys") = KeyPolicy::kFast)
        .def("encrypt", [](const SlotsEvaluator& e, const Doubles& v, int level) { return out(e.encrypt(view(v), level)); })
        .def("decrypt", [](const SlotsEvaluator& e, const Ct& x) { return array(e.decrypt(x)); });

    py::class_<TraceReport>(m, "TraceReport")
        .def_readonly("rotation_keys", &TraceReport::rotation_keys)
        .def_readonly("key_switches", &TraceReport::key_switches)
        .def_readonly("hoisted_key_switches", &TraceReport::hoisted_key_switches)
        .def_readonly("mod_ups", &TraceReport::mod_ups)
        .def_readonly("plain_multiplications", &TraceReport::plain_multiplications)
        .def_readonly("encoded_values", &TraceReport::encoded_values)
        .def_readonly("rescales", &TraceReport::rescales)
        .def_readonly("polynomials", &TraceReport::polynomials)
        .def_readonly("products", &TraceReport::products)
        .def_readonly("bootstraps", &TraceReport::bootstraps);
    py::class_<TraceEvaluator, Evaluator>(m, "TraceEvaluator")
        .def(py::init<std::size_t, LevelModel, KeyPolicy>(), py::arg("slots"), py::arg("levels"),
             py::arg("keys") = KeyPolicy::kFast)
        .def("encrypt", [](const TraceEvaluator& e, int level) { return out(e.encrypt(level)); })
        .def("report", &TraceEvaluator::report)
        .def("reset", &TraceEvaluator::reset);

    py::class_<OpenFheEvaluator, Evaluator>(m, "OpenFheEvaluator")
        .def(py::init<std::shared_ptr<Context>, std::string, KeyPolicy>(), py::arg("context"), py::arg("key_tag"),
             py::arg("keys") = KeyPolicy::kFast)
        .def("add_relinearisation_key",
             [](OpenFheEvaluator& e, const py::buffer& b) { e.add_relinearisation_key(Buffer(b).bytes()); })
        .def("add_conjugation_key",
             [](OpenFheEvaluator& e, const py::buffer& b) { e.add_conjugation_key(Buffer(b).bytes()); })
        .def("add_rotation_key",
             [](OpenFheEvaluator& e, int k, const py::buffer& b) { e.add_rotation_key(k, Buffer(b).bytes()); })
        .def("add_encapsulation_keys",
             [](OpenFheEvaluator& e, const py::buffer& sparse, const py::buffer& dense) {
                 e.add_encapsulation_keys(Buffer(sparse).bytes(), Buffer(dense).bytes());
             })
        .def("prepare_bootstrap", &OpenFheEvaluator::prepare_bootstrap, py::call_guard<Release>())
        .def("read", [](const OpenFheEvaluator& e, const py::buffer& b) { return out(e.read(Buffer(b).bytes())); })
        .def("write", [](const OpenFheEvaluator& e, const Ct& x, int dropped) { return py::bytes(e.write(x, dropped)); }, py::arg("x"), py::arg("dropped") = 0);
}

template <typename Keys>
py::list rotation_keys(const Keys& keys, const std::vector<std::pair<int, int>>& rotations) {
    std::vector<std::string> made;
    {
        Release release;
        made = keys.rotation_keys(rotations);
    }
    py::list out;
    for (auto& key : made) {
        out.append(py::bytes(key));
        std::string().swap(key);  // one copy at a time
    }
    return out;
}

void bind_native(py::module_& m) {
    using Ct = std::shared_ptr<Ciphertext>;
    py::class_<NativeKeys>(m, "NativeKeys")
        .def(py::init<const ClientKeys&>(), py::arg("keys"))
        .def("relinearisation_key", [](const NativeKeys& k) { return py::bytes(k.relinearisation_key()); })
        .def("conjugation_key", [](const NativeKeys& k) { return py::bytes(k.conjugation_key()); })
        .def("rotation_keys", &rotation_keys<NativeKeys>)
        .def("encapsulation_keys", [](const NativeKeys& k) {
            auto [sparse, dense] = k.encapsulation_keys();
            return std::make_pair(py::bytes(sparse), py::bytes(dense));
        });

    // Keys are used where they stand in the buffer they come in, a mapped file: the evaluator keeps it.
    py::class_<NativeBackend, Evaluator>(m, "NativeEvaluator")
        .def(py::init<std::shared_ptr<Context>, KeyPolicy>(), py::arg("context"), py::arg("keys") = KeyPolicy::kFast)
        .def("add_relinearisation_key",
             [](NativeBackend& e, const py::buffer& b) { e.add_relinearisation_key(Buffer(b).bytes()); },
             py::keep_alive<1, 2>())
        .def(
            "add_conjugation_key",
            [](NativeBackend& e, const py::buffer& b) { e.add_conjugation_key(Buffer(b).bytes()); }, py::keep_alive<1, 2>())
        .def("add_rotation_key",
             [](NativeBackend& e, int k, const py::buffer& b) { e.add_rotation_key(k, Buffer(b).bytes()); },
             py::keep_alive<1, 3>())
        .def("add_encapsulation_keys",
             [](NativeBackend& e, const py::buffer& sparse, const py::buffer& dense) {
                 e.add_encapsulation_keys(Buffer(sparse).bytes(), Buffer(dense).bytes());
             },
             py::keep_alive<1, 2>(), py::keep_alive<1, 3>())
        .def("prepare_bootstrap", &NativeBackend::prepare_bootstrap, py::call_guard<Release>())
        .def("read",
             [](const NativeBackend& e, const py::buffer& b) {
                 return out(e.read(Buffer(b).bytes()));
             })
        .def("write", [](NativeBackend& e, const Ct& x, int dropped) { return py::bytes(e.write(x, dropped)); }, py::arg("x"), py::arg("dropped") = 0);
    py::class_<TwoInputs, Evaluator>(m, "TwoInputs")
        .def(py::init<NativeBackend&>(), py::arg("evaluator"), py::keep_alive<1, 2>())
        .def("join", [](TwoInputs& e, const Ct& x, const Ct& y) { return Release(), out(e.join(x, y)); })
        .def("twice_each", [](TwoInputs& e, const Ct& z) {
            Release release;
            const auto [re, im] = e.twice_each(z);
            return std::make_pair(out(re), out(im));
        });
    m.def(
        "native_bootstrap_rotations",
        [](const Context& c, KeyPolicy keys) {
            std::vector<std::pair<int, std::size_t>> out;
            for (const auto& need : ckks::Bootstrap::rotations(*c.chain(), native_bootstrap(c, keys)))
                out.emplace_back(need.rotation, need.limbs);
            return out;
        },
        py::arg("context"), py::arg("keys") = KeyPolicy::kFast);
    m.def("native_bootstrap_matrices", [](const Context& c, KeyPolicy keys) {
        std::vector<std::tuple<std::size_t, int, int, int, int>> out;
        for (const auto& m : ckks::Bootstrap::matrices(*c.chain(), native_bootstrap(c, keys)))
            out.emplace_back(m.limbs, m.diagonals, m.steps.hoisted, m.steps.baby, m.steps.giant);
        return out;
    });
    m.def("native_key_bytes", [](const Context& c, std::size_t limbs) { return switching_key_bytes(*c.chain(), limbs); });
}

void bind_crypto(py::module_& m) {
    py::class_<ParameterSet>(m, "ParameterSet")
        .def(py::init<int, int, int, int, int, int, int, int, int, bool, bool, bool>(), py::arg("log_n"), py::arg("slots"),
             py::arg("first_bits"), py::arg("scale_bits"), py::arg("special_bits"), py::arg("digits"),
             py::arg("cts_budget"), py::arg("stc_budget"), py::arg("top_level"), py::arg("native"), py::arg("allow_insecure"),
             py::arg("paired") = false);
    m.def("bootstrap_depth", &bootstrap_depth);
    m.attr("eval_mod_depth") = ckks::kEvalModDepth;
    m.def("openfhe_bootstrap_depth", [](uint32_t cts, uint32_t stc) {
        return lbcrypto::FHECKKSRNS::GetBootstrapDepth({cts, stc}, lbcrypto::SPARSE_ENCAPSULATED);
    });
    m.def("keep_freed_memory", &keep_freed_memory);
    m.def("set_threads", [](int threads) { omp_set_num_threads(threads); });

    py::class_<Context, std::shared_ptr<Context>>(m, "Context")
        .def(py::init(&Context::create), py::call_guard<Release>())
        .def_property_readonly("levels", &Context::levels)
        .def_property_readonly("q", &Context::q)
        .def_property_readonly("p", &Context::p)
        .def_property_readonly("log_qp", &Context::log_qp)
        .def("bootstrap_rotations", &Context::bootstrap_rotations)
        .def("evaluation_key_bytes", [](const Context& c, int limbs) { return evaluation_key_bytes(c, limbs); });

    py::class_<ClientKeys>(m, "ClientKeys")
        .def_static("generate", &ClientKeys::generate, py::call_guard<Release>())
        .def_static("load",
                    [](std::shared_ptr<Context> context, const std::string& tag, const py::buffer& secret,
                       const py::buffer& public_key) {
                        return ClientKeys::load(std::move(context), tag, Buffer(secret).bytes(), Buffer(public_key).bytes());
                    })
        .def("secret", [](const ClientKeys& k) { return py::bytes(k.secret()); })
        .def("public_key", [](const ClientKeys& k) { return py::bytes(k.public_key()); })
        .def("relinearisation_key", [](const ClientKeys& k) { return py::bytes(k.relinearisation_key()); })
        .def("conjugation_key", [](const ClientKeys& k) { return py::bytes(k.conjugation_key()); })
        .def("rotation_keys", &rotation_keys<ClientKeys>)
        .def("encapsulation_keys",
             [](const ClientKeys& k) {
                 auto [sparse, dense] = k.encapsulation_keys();
                 return std::make_pair(py::bytes(sparse), py::bytes(dense));
             })
        .def("encrypt", [](const ClientKeys& k, const Doubles& v, int level) { return py::bytes(k.encrypt(view(v), level)); })
        .def("decrypt", [](const ClientKeys& k, const py::buffer& b, std::size_t count) {
            return array(k.decrypt(Buffer(b).bytes(), count));
        });

    m.def("export_context", [](const Context& c) { return py::bytes(export_context(c)); });
    m.def("export_public_key", [](const ClientKeys& k) { return py::bytes(export_public_key(k)); });
    m.def("export_secret_key", [](const ClientKeys& k) { return py::bytes(export_secret_key(k)); });
    m.def("export_ciphertext", [](const Context& c, const std::string& tag, const py::buffer& b) {
        return py::bytes(export_ciphertext(c, tag, Buffer(b).bytes()));
    });
}

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "C++ core of fheinfer: layouts, kernels, evaluators, OpenFHE context and keys.";
    register_errors();
    bind_layout(m);
    bind_evaluators(m);
    bind_linear_map(m);
    bind_crypto(m);
    bind_native(m);
    bind_ring(m);
    bind_native_testing(m);
}
