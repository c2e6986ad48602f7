// Maps the core's errors, and OpenFHE's, to the exception tree of fheinfer/errors.py.
#pragma once

namespace fheinfer {

void register_errors();

}  // namespace fheinfer
