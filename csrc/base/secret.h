// Memory of secrets and noise, overwritten before it is given back.
//
// This keeps them out of what is allocated next, of core dumps and of swapped pages of a process that is done with them. It
// does not reach copies that are someone else's: bytes objects of Python, and what OpenFHE makes inside its own calls.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

namespace fheinfer {

// Zeros that the compiler does not leave out.
inline void wipe(void* p, std::size_t bytes) {
    if (bytes == 0)
        return;
    std::memset(p, 0, bytes);
    asm volatile("" : : "r"(p) : "memory");
}

template <typename T>
struct WipingAllocator {
    using value_type = T;

    WipingAllocator() = default;
    template <typename U>
    WipingAllocator(const WipingAllocator<U>&) {}

    T* allocate(std::size_t n) {
        if (n > std::numeric_limits<std::size_t>::max() / sizeof(T))
            throw std::bad_array_new_length();
        if (void* p = std::malloc(n * sizeof(T)))
            return static_cast<T*>(p);
        throw std::bad_alloc();
    }
    void deallocate(T* p, std::size_t n) {
        wipe(p, n * sizeof(T));
        std::free(p);
    }
    friend bool operator==(const WipingAllocator&, const WipingAllocator&) {
        return true;
    }
};

// Its old memory is wiped too where it grows.
template <typename T>
using SecretVector = std::vector<T, WipingAllocator<T>>;

}  // namespace fheinfer
