#pragma once

#include <pybind11/pybind11.h>

void bind_ring(pybind11::module_& m);
