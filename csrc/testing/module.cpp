// fheinfer._testing: the parts of the core one by one, and OpenFHE's to compare them with. For tests; no wheel has it.
//
// It links the same libraries as fheinfer._core and has what is static in them a second time: objects of _core come as
// arguments, and the instruction set is set in both.
#include "bindings/errors.h"
#include "testing/checks.h"

PYBIND11_MODULE(_testing, m) {
    using namespace fheinfer;
    m.doc() = "Parts of the C++ core for tests: ring arithmetic, key switching, uniform residues.";
    pybind11::module_::import("fheinfer._core");  // the types of arguments
    register_errors();
    testing::bind_ring(m);
    testing::bind_ckks(m);
}
