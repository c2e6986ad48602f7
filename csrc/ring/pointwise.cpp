#include "ring/pointwise.h"

#include "base/cpu.h"
#include "ring/pointwise_kernels.h"

namespace fheinfer::ring {

namespace portable {

void add(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i)
        out[i] = m.add(x[i], y[i]);
}

void subtract(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i)
        out[i] = m.subtract(x[i], y[i]);
}

void multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i)
        out[i] = m.multiply(x[i], y[i]);
}

void multiply(uint64_t* out, const uint64_t* x, const Factor& f, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i)
        out[i] = f.multiply(x[i], m);
}

void subtract_multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, const Factor& f, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i)
        out[i] = f.multiply(x[i] + m.p - y[i], m);
}

void switch_modulus(uint64_t* out, const uint64_t* x, std::size_t n, const Modulus& from, const Modulus& m) {
    const uint64_t half = from.p >> 1, shift = m.p - m.reduce(from.p);
    for (std::size_t i = 0; i < n; ++i)
        out[i] = m.reduce(x[i] + (x[i] > half ? shift : 0));
}

void lift(uint64_t* out, const int64_t* x, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i)
        out[i] = m.from_signed(x[i]);
}

bool all_below(const uint64_t* x, std::size_t n, const Modulus& m) {
    bool below = true;
    for (std::size_t i = 0; i < n; ++i)
        below &= x[i] < m.p;
    return below;
}

}  // namespace portable

// Calls the kernel for the instruction set that this processor runs.
#if defined(__x86_64__)
#define FHEINFER_DISPATCH(call)       \
    switch (instruction_set()) {      \
        case InstructionSet::kAvx512: \
            return avx512::call;      \
        case InstructionSet::kAvx2:   \
            return avx2::call;        \
        default:                      \
            return portable::call;    \
    }
#else
#define FHEINFER_DISPATCH(call) return portable::call
#endif

void add(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m) {
    FHEINFER_DISPATCH(add(out, x, y, n, m));
}

void subtract(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m) {
    FHEINFER_DISPATCH(subtract(out, x, y, n, m));
}

void multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, std::size_t n, const Modulus& m) {
    FHEINFER_DISPATCH(multiply(out, x, y, n, m));
}

void multiply(uint64_t* out, const uint64_t* x, const Factor& f, std::size_t n, const Modulus& m) {
    FHEINFER_DISPATCH(multiply(out, x, f, n, m));
}

void subtract_multiply(uint64_t* out, const uint64_t* x, const uint64_t* y, const Factor& f, std::size_t n, const Modulus& m) {
    FHEINFER_DISPATCH(subtract_multiply(out, x, y, f, n, m));
}

void switch_modulus(uint64_t* out, const uint64_t* x, std::size_t n, const Modulus& from, const Modulus& m) {
    FHEINFER_DISPATCH(switch_modulus(out, x, n, from, m));
}

void lift(uint64_t* out, const int64_t* x, std::size_t n, const Modulus& m) {
    FHEINFER_DISPATCH(lift(out, x, n, m));
}

bool all_below(const uint64_t* x, std::size_t n, const Modulus& m) {
    FHEINFER_DISPATCH(all_below(x, n, m));
}

}  // namespace fheinfer::ring
