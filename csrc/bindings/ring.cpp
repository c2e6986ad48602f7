// fheinfer._core.ring: the ring arithmetic, for tests and benchmarks.
#include "bindings/ring.h"

#include "base/cpu.h"

namespace py = pybind11;
using namespace fheinfer;

void bind_ring(py::module_& m) {
    auto ring = m.def_submodule("ring", "Ring arithmetic, for tests and benchmarks.");
    ring.def("cpu_form", &cpu_form_name);
    ring.def("set_cpu_form", [](const std::string& name) { set_cpu_form(name.c_str()); });
}
