// What all bindings share: buffers, arrays, and how a long call is made.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/process.h"
#include "crypto/serial.h"

namespace fheinfer::bindings {

namespace py = pybind11;

using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;

// Around everything that computes: refused in a forked process, and without the interpreter's lock. Nothing of Python may
// be touched while one of these lives, the making and the end of Python objects included: make buffers before it.
class LongCall {
public:
    LongCall() {
        require_unforked();
    }

private:
    py::gil_scoped_release release_;
};

inline std::span<const double> view(const Doubles& a) {
    return {a.data(), static_cast<std::size_t>(a.size())};
}

inline Doubles array(const std::vector<double>& v) {
    return Doubles(static_cast<py::ssize_t>(v.size()), v.data());
}

// The bytes of a contiguous bytes-like object (bytes, memoryview, mmap). While this lives its owner cannot be resized or
// closed: Python raises BufferError.
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

// What f() returns, a string, as bytes: computed in a long call.
template <typename F>
py::bytes bytes_of(const F& f) {
    std::string made;
    {
        const LongCall call;
        made = f();
    }
    return py::bytes(made);
}

void bind_keys(py::module_& m);
void bind_measure(py::module_& m);

}  // namespace fheinfer::bindings
