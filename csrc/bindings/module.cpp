// fheinfer._core: the C++ core for the Python package. Private; the package re-exports what is public.
#include <mutex>
#include <optional>
#include <variant>

#include "base/memory.h"
#include "bindings/common.h"
#include "bindings/errors.h"
#include "bindings/linear_map.h"
#include "crypto/native.h"
#include "evaluator/openfhe.h"
#include "evaluator/slots.h"
#include "evaluator/trace.h"
#include "evaluator/two_inputs.h"

namespace fheinfer::bindings {

namespace {

// pybind holds ciphertexts by pointer to non-const; nothing that is bound changes one.
std::shared_ptr<Ciphertext> out(const CiphertextPtr& x) {
    return std::const_pointer_cast<Ciphertext>(x);
}

// An evaluator that pins the buffers its keys stand in: their owners, mapped files, cannot be closed or resized.
class PinnedNative final : public NativeBackend {
public:
    using NativeBackend::NativeBackend;
    std::vector<Buffer> pinned;
};

// "relinearisation", "conjugation", "to_sparse", "to_dense", or a rotation.
using KeyName = std::variant<int, std::string>;

KeyKind kind_of(const KeyName& name) {
    if (std::holds_alternative<int>(name))
        return KeyKind::kRotation;
    const auto& text = std::get<std::string>(name);
    if (text == "relinearisation")
        return KeyKind::kRelinearisation;
    if (text == "conjugation")
        return KeyKind::kConjugation;
    if (text == "to_sparse")
        return KeyKind::kToSparse;
    if (text == "to_dense")
        return KeyKind::kToDense;
    throw Error(ErrorKind::kUsage, "no evaluation key is named " + text);
}

void add_keys(PinnedNative& e, const std::vector<std::pair<KeyName, py::buffer>>& keys) {
    std::vector<Buffer> buffers;
    std::vector<NamedKey> named;
    for (const auto& [name, buffer] : keys) {
        const auto* rotation = std::get_if<int>(&name);
        named.push_back({kind_of(name), rotation ? *rotation : 0, buffers.emplace_back(buffer).bytes()});
    }
    std::vector<ckks::SwitchingKey> read;
    {
        const LongCall call;
        read = e.read_keys(named);
    }
    // Before the first is added: one that is refused, as a rotation's second key is, leaves those before it in place.
    std::move(buffers.begin(), buffers.end(), std::back_inserter(e.pinned));
    const LongCall call;
    e.add_keys(named, std::move(read));
}

// OpenFHE keeps keys in maps of the whole process, which nothing guards.
std::mutex openfhe_keys;

void add_openfhe_keys(OpenFheEvaluator& e, const std::vector<std::pair<KeyName, py::buffer>>& keys) {
    std::vector<Buffer> buffers;
    for (const auto& [name, buffer] : keys)
        buffers.emplace_back(buffer);
    const LongCall call;
    const std::lock_guard lock(openfhe_keys);
    std::optional<Bytes> sparse, dense;
    for (std::size_t i = 0; i < keys.size(); ++i)
        switch (kind_of(keys[i].first)) {
            case KeyKind::kRelinearisation:
                e.add_relinearisation_key(buffers[i].bytes());
                break;
            case KeyKind::kConjugation:
                e.add_conjugation_key(buffers[i].bytes());
                break;
            case KeyKind::kRotation:
                e.add_rotation_key(std::get<int>(keys[i].first), buffers[i].bytes());
                break;
            case KeyKind::kToSparse:
                sparse = buffers[i].bytes();
                break;
            case KeyKind::kToDense:
                dense = buffers[i].bytes();
                break;
        }
    if (sparse.has_value() != dense.has_value())
        throw Error(ErrorKind::kUsage, "the keys to_sparse and to_dense come together");
    if (sparse)
        e.add_encapsulation_keys(*sparse, *dense);
}

// add_keys, and the same for one kind each.
template <typename Evaluator, typename Class>
void bind_add_keys(Class& c, void (*add)(Evaluator&, const std::vector<std::pair<KeyName, py::buffer>>&)) {
    c.def("add_keys", add, py::arg("keys"))
        .def("add_relinearisation_key", [add](Evaluator& e, const py::buffer& b) { add(e, {{"relinearisation", b}}); })
        .def("add_conjugation_key", [add](Evaluator& e, const py::buffer& b) { add(e, {{"conjugation", b}}); })
        .def("add_rotation_key", [add](Evaluator& e, int k, const py::buffer& b) { add(e, {{k, b}}); })
        .def("add_encapsulation_keys", [add](Evaluator& e, const py::buffer& sparse, const py::buffer& dense) {
            add(e, {{"to_sparse", sparse}, {"to_dense", dense}});
        });
}

void bind_evaluators(py::module_& m) {
    py::class_<Ciphertext, std::shared_ptr<Ciphertext>>(m, "Ciphertext");
    py::enum_<KeyPolicy>(m, "KeyPolicy").value("minimal", KeyPolicy::kMinimal).value("fast", KeyPolicy::kFast);
    py::class_<LevelModel>(m, "LevelModel")
        .def(py::init<int, int, int, bool, bool>(), py::arg("top"), py::arg("after_bootstrap"), py::arg("bootstrap_min"),
             py::arg("openfhe_series") = false, py::arg("composite") = false)
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
        .def("add", [](Evaluator& e, const Ct& x, const Ct& y) { return LongCall(), out(e.add(x, y)); })
        .def("add_plain",
             [](Evaluator& e, const Ct& x, const Doubles& v) {
                 const auto values = view(v);
                 return LongCall(), out(e.add_plain(x, values));
             })
        .def("multiply_plain",
             [](Evaluator& e, const Ct& x, const Doubles& v) {
                 const auto values = view(v);
                 return LongCall(), out(e.multiply_plain(x, values));
             })
        .def("multiply", [](Evaluator& e, const Ct& x, const Ct& y) { return LongCall(), out(e.multiply(x, y)); })
        .def("rotate", [](Evaluator& e, const Ct& x, int k) { return LongCall(), out(e.rotate(x, k)); })
        .def("rotate_many",
             [](Evaluator& e, const Ct& x, const std::vector<int>& ks) {
                 std::vector<Ct> rotated;
                 const LongCall call;
                 for (auto& y : e.rotate_many(x, ks))
                     rotated.push_back(out(y));
                 return rotated;
             })
        .def("chebyshev",
             [](Evaluator& e, const Ct& x, const std::vector<double>& c) { return LongCall(), out(e.chebyshev(x, c)); })
        .def("bootstrap", [](Evaluator& e, const Ct& x) { return LongCall(), out(e.bootstrap(x)); })
        .def("drop_to", [](Evaluator& e, const Ct& x, int level) { return LongCall(), out(e.drop_to(x, level)); });

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

    py::class_<OpenFheEvaluator, Evaluator> openfhe(m, "OpenFheEvaluator");
    openfhe
        .def(py::init<std::shared_ptr<Context>, std::string, KeyPolicy>(), py::arg("context"), py::arg("key_tag"),
             py::arg("keys") = KeyPolicy::kFast)
        .def("prepare_bootstrap", &OpenFheEvaluator::prepare_bootstrap, py::call_guard<LongCall>())
        .def("read",
             [](const OpenFheEvaluator& e, const py::buffer& b) {
                 const Buffer buffer(b);
                 const LongCall call;
                 return out(e.read(buffer.bytes()));
             })
        .def(
            "write",
            [](const OpenFheEvaluator& e, const Ct& x, int dropped) { return bytes_of([&] { return e.write(x, dropped); }); },
            py::arg("x"), py::arg("dropped") = 0);
    bind_add_keys(openfhe, &add_openfhe_keys);
}

void bind_native(py::module_& m) {
    using Ct = std::shared_ptr<Ciphertext>;
    // Keys are used where they stand in the buffer they come in, a mapped file.
    py::class_<PinnedNative, Evaluator> native(m, "NativeEvaluator");
    native.def(py::init<std::shared_ptr<Context>, KeyPolicy>(), py::arg("context"), py::arg("keys") = KeyPolicy::kFast)
        .def("prepare_bootstrap", &NativeBackend::prepare_bootstrap, py::call_guard<LongCall>())
        .def("read",
             [](const PinnedNative& e, const py::buffer& b) {
                 const Buffer buffer(b);
                 const LongCall call;
                 return out(e.read(buffer.bytes()));
             })
        .def(
            "write",
            [](PinnedNative& e, const Ct& x, int dropped) { return bytes_of([&] { return e.write(x, dropped); }); },
            py::arg("x"), py::arg("dropped") = 0);
    bind_add_keys(native, &add_keys);
    py::class_<TwoInputs, Evaluator>(m, "TwoInputs")
        .def(py::init([](PinnedNative& e) { return std::make_unique<TwoInputs>(e); }), py::arg("evaluator"), py::keep_alive<1, 2>())
        .def("join", [](TwoInputs& e, const Ct& x, const Ct& y) { return LongCall(), out(e.join(x, y)); })
        .def("twice_each", [](TwoInputs& e, const Ct& z) {
            const LongCall call;
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
    m.def("native_key_specials", [](const Context& c, std::size_t limbs) {
        return c.chain()->specials_for(c.chain()->sprout_count() + limbs);
    });
    m.def("native_key_bytes", [](const Context& c, std::size_t limbs) { return switching_key_bytes(*c.chain(), limbs); });
}

}  // namespace

}  // namespace fheinfer::bindings

PYBIND11_MODULE(_core, m) {
    using namespace fheinfer::bindings;
    m.doc() = "C++ core of fheinfer: linear maps, evaluators, OpenFHE context and keys.";
    fheinfer::register_errors();
    m.def("keep_freed_memory", &fheinfer::keep_freed_memory);
    m.def("give_back_memory", &fheinfer::give_back_memory, py::call_guard<py::gil_scoped_release>());
    bind_evaluators(m);
    bind_keys(m);
    bind_linear_map(m);
    bind_native(m);
    bind_measure(m);
}
