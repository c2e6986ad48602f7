// The one exception type of the core. The bindings map each kind to a class of fheinfer/errors.py.
#pragma once

#include <stdexcept>
#include <string>

namespace fheinfer {

enum class ErrorKind {
    kUsage,     // an argument that cannot be used
    kPlan,      // shapes, packings or levels that do not fit
    kCorrupt,   // bytes that are not what they claim to be
    kMismatch,  // intact bytes of another parameter set or key
    kBackend,   // an operation the evaluator refused: no level left, no such key
};

class Error : public std::runtime_error {
public:
    Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
    ErrorKind kind() const {
        return kind_;
    }

private:
    ErrorKind kind_;
};

}  // namespace fheinfer
