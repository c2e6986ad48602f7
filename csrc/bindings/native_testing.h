#pragma once

#include <pybind11/pybind11.h>

void bind_native_testing(pybind11::module_& m);
