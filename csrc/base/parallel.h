// The one parallel loop of the core: OpenMP underneath, and exceptions that cross it.
//
// An exception that leaves an OpenMP region ends the process, std::bad_alloc included. Here the first one is kept, the
// iterations that have not started are skipped, and it is thrown again once the loop is over.
#pragma once

#include <omp.h>

#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <optional>

#include "base/process.h"

namespace fheinfer {

// The first exception of a parallel region.
class Failure {
public:
    bool seen() const {
        return seen_.load(std::memory_order_relaxed);
    }
    // Inside a catch block.
    void keep() {
        const std::lock_guard lock(mutex_);
        if (!first_)
            first_ = std::current_exception();
        seen_ = true;
    }
    void rethrow() const {
        if (first_)
            std::rethrow_exception(first_);
    }

private:
    std::atomic<bool> seen_{false};
    std::mutex mutex_;
    std::exception_ptr first_;
};

// body(i) for every i below `count`, on all threads, in no order. Throws what a body threw, and Error(kBackend) in a
// forked process, whose threads are gone. Inside a body of another such loop, on this thread alone.
template <typename Body>
void parallel_for(std::size_t count, const Body& body) {
    require_unforked();
    if (count <= 1 || omp_in_parallel()) {
        for (std::size_t i = 0; i < count; ++i)
            body(i);
        return;
    }
    Failure failure;
#pragma omp parallel for schedule(dynamic)
    for (std::size_t i = 0; i < count; ++i) {
        if (failure.seen())
            continue;
        try {
            body(i);
        }
        catch (...) {
            failure.keep();
        }
    }
    failure.rethrow();
}

// Threads of the next loop.
inline std::size_t thread_count() {
    return static_cast<std::size_t>(omp_get_max_threads());
}

// body(i, scratch) likewise, with a scratch value of its own for each thread, made by `make_scratch()` on that thread.
template <typename MakeScratch, typename Body>
void parallel_for(std::size_t count, const MakeScratch& make_scratch, const Body& body) {
    require_unforked();
    if (count <= 1 || omp_in_parallel()) {
        auto scratch = make_scratch();
        for (std::size_t i = 0; i < count; ++i)
            body(i, scratch);
        return;
    }
    Failure failure;
#pragma omp parallel
    {
        // Every thread has to come to the loop below, one without scratch included.
        std::optional<decltype(make_scratch())> scratch;
        try {
            scratch.emplace(make_scratch());
        }
        catch (...) {
            failure.keep();
        }
#pragma omp for schedule(dynamic)
        for (std::size_t i = 0; i < count; ++i) {
            if (failure.seen() || !scratch)
                continue;
            try {
                body(i, *scratch);
            }
            catch (...) {
                failure.keep();
            }
        }
    }
    failure.rethrow();
}

}  // namespace fheinfer
