// What a forked process must not do.
#pragma once

namespace fheinfer {

// Throws Error(kBackend) in a process that was forked after this library was loaded: OpenFHE's generator is copied, so
// that parent and child would draw the same keys and errors, and the threads of OpenMP are gone, so that a parallel loop
// would wait for ever.
void require_unforked();

}  // namespace fheinfer
