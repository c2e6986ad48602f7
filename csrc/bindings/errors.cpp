#include "bindings/errors.h"

#include <pybind11/pybind11.h>

#include <new>
#include <string>

#include "base/error.h"
#include "crypto/lbcrypto.h"

namespace py = pybind11;

namespace fheinfer {

namespace {

const char* python_name(ErrorKind kind) {
    switch (kind) {
        case ErrorKind::kUsage:
            return "UsageError";
        case ErrorKind::kPlan:
            return "PlanError";
        case ErrorKind::kCorrupt:
            return "CorruptArtifactError";
        case ErrorKind::kMismatch:
            return "MismatchError";
        case ErrorKind::kBackend:
            break;
    }
    return "BackendError";
}

void raise(const char* name, const std::string& message) {
    const auto type = py::module_::import("fheinfer.errors").attr(name);
    PyErr_SetString(type.ptr(), message.c_str());
}

}  // namespace

void register_errors() {
    py::register_local_exception_translator([](std::exception_ptr p) {
        try {
            if (p)
                std::rethrow_exception(p);
        }
        catch (const Error& e) {
            raise(python_name(e.kind()), e.what());
        }
        catch (const lbcrypto::OpenFHEException& e) {
            raise("BackendError", "OpenFHE: " + reason(e));
        }
        catch (const std::bad_alloc&) {
            raise("NotEnoughMemoryError", "the machine ran out of memory");
        }
    });
}

}  // namespace fheinfer
