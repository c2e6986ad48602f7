#pragma once

#include <pybind11/pybind11.h>

// LinearMap, LinearMapConstants and the kernels that take them. After the evaluators, whose types it uses.
void bind_linear_map(pybind11::module_& m);
