#include "base/process.h"

#include <pthread.h>

#include <atomic>

#include "base/error.h"

namespace fheinfer {

namespace {

std::atomic<bool> forked{false};

// When the library is loaded; a child of a child is one too.
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

void require_unforked() {
    if (forked.load(std::memory_order_relaxed))
        throw Error(ErrorKind::kBackend,
                    "this process was forked after fheinfer was loaded; start workers with spawn or forkserver, or import "
                    "fheinfer in each of them (multiprocessing.get_context(\"spawn\"))");
}

}  // namespace fheinfer
