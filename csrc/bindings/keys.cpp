// Contexts, what the client makes of them, and objects in OpenFHE's own form.
#include "bindings/common.h"
#include "crypto/export.h"
#include "crypto/native.h"

namespace fheinfer::bindings {

namespace {

template <typename Keys>
py::list rotation_keys(const Keys& keys, const std::vector<std::pair<int, int>>& rotations) {
    std::vector<std::string> made;
    {
        const LongCall call;
        made = keys.rotation_keys(rotations);
    }
    py::list out;
    for (auto& key : made) {
        out.append(py::bytes(key));
        std::string().swap(key);  // one copy at a time
    }
    return out;
}

template <typename Keys>
std::pair<py::bytes, py::bytes> encapsulation_keys(const Keys& keys) {
    std::pair<std::string, std::string> made;
    {
        const LongCall call;
        made = keys.encapsulation_keys();
    }
    return {py::bytes(made.first), py::bytes(made.second)};
}

// The evaluation keys that ClientKeys (OpenFHE's) and NativeKeys (the native backend's) make under the same names.
template <typename Keys, typename Class>
void bind_evaluation_keys(Class& c) {
    c.def("relinearisation_key", [](const Keys& k) { return bytes_of([&] { return k.relinearisation_key(); }); })
        .def("conjugation_key", [](const Keys& k) { return bytes_of([&] { return k.conjugation_key(); }); })
        .def("rotation_keys", &rotation_keys<Keys>)
        .def("encapsulation_keys", &encapsulation_keys<Keys>);
}

void bind_context(py::module_& m) {
    py::class_<ParameterSet>(m, "ParameterSet")
        .def(py::init<int, int, int, int, int, int, int, int, int, bool, bool, bool>(), py::arg("log_n"), py::arg("slots"),
             py::arg("first_bits"), py::arg("scale_bits"), py::arg("special_bits"), py::arg("digits"),
             py::arg("cts_budget"), py::arg("stc_budget"), py::arg("top_level"), py::arg("native"), py::arg("allow_insecure"),
             py::arg("composite") = false);
    m.def("bootstrap_depth", &bootstrap_depth);
    m.attr("eval_mod_depth") = ckks::kEvalModDepth;
    m.def("openfhe_bootstrap_depth", [](uint32_t cts, uint32_t stc) {
        return lbcrypto::FHECKKSRNS::GetBootstrapDepth({cts, stc}, lbcrypto::SPARSE_ENCAPSULATED);
    });
    py::class_<Context, std::shared_ptr<Context>>(m, "Context")
        .def(py::init([](const ParameterSet& params) {
                 const LongCall call;
                 return Context::create(params);
             }),
             py::arg("params"))
        .def_property_readonly("levels", &Context::levels)
        .def_property_readonly("q", &Context::q)
        .def_property_readonly("p", &Context::p)
        .def_property_readonly("log_qp", &Context::log_qp)
        .def("bootstrap_rotations", &Context::bootstrap_rotations)
        .def("evaluation_key_bytes", [](const Context& c, int limbs) { return evaluation_key_bytes(c, limbs); });
}

void bind_client(py::module_& m) {
    py::class_<ClientKeys> client(m, "ClientKeys");
    client.def_static("generate", &ClientKeys::generate, py::call_guard<LongCall>())
        .def_static("load",
                    [](const std::shared_ptr<Context>& context, const std::string& tag, const py::buffer& secret,
                       const py::buffer& public_key) {
                        const Buffer s(secret), p(public_key);
                        const LongCall call;
                        return ClientKeys::load(context, tag, s.bytes(), p.bytes());
                    })
        .def("secret",
             [](const ClientKeys& k) {
                 SecretVector<char> secret;
                 {
                     const LongCall call;
                     secret = k.secret();
                 }
                 return py::bytes(secret.data(), secret.size());
             })
        .def("public_key", [](const ClientKeys& k) { return bytes_of([&] { return k.public_key(); }); })
        .def("encrypt",
             [](const ClientKeys& k, const Doubles& v, int level) {
                 const auto values = view(v);
                 return bytes_of([&] { return k.encrypt(values, level); });
             })
        .def("decrypt", [](const ClientKeys& k, const py::buffer& b, std::size_t count) {
            const Buffer buffer(b);
            SecretVector<double> values;
            {
                const LongCall call;
                values = k.decrypt(buffer.bytes(), count);
            }
            return Doubles(static_cast<py::ssize_t>(values.size()), values.data());
        });
    bind_evaluation_keys<ClientKeys>(client);

    py::class_<NativeKeys> native(m, "NativeKeys");
    native.def(py::init([](const ClientKeys& keys) {
                   const LongCall call;
                   return std::make_unique<NativeKeys>(keys);
               }),
               py::arg("keys"));
    bind_evaluation_keys<NativeKeys>(native);
}

void bind_export(py::module_& m) {
    m.def("export_context", [](const Context& c) { return bytes_of([&] { return export_context(c); }); });
    m.def("export_public_key", [](const ClientKeys& k) { return bytes_of([&] { return export_public_key(k); }); });
    m.def("export_secret_key", [](const ClientKeys& k) { return bytes_of([&] { return export_secret_key(k); }); });
    m.def("export_ciphertext", [](const Context& c, const std::string& tag, const py::buffer& b) {
        const Buffer buffer(b);
        return bytes_of([&] { return export_ciphertext(c, tag, buffer.bytes()); });
    });
}

}  // namespace

void bind_keys(py::module_& m) {
    bind_context(m);
    bind_client(m);
    bind_export(m);
}

}  // namespace fheinfer::bindings
