#pragma once

#include <pybind11/pybind11.h>

namespace fheinfer::bindings {

// LinearMap, LinearMapConstants and the kernels that take them. After the evaluators, whose types it uses.
void bind_linear_map(pybind11::module_& m);

}  // namespace fheinfer::bindings
