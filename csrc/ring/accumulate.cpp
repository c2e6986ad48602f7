#include "ring/accumulate.h"

#include <algorithm>

#include "base/cpu.h"
#include "ring/accumulate_kernels.h"

namespace fheinfer::ring {

namespace {

void sum_of_products_portable(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ys, std::size_t terms,
                              std::size_t repeat, bool accumulate, std::size_t begin, std::size_t end, const Modulus& m) {
    for (std::size_t i = begin; i < end; ++i) {
        uint128 sum = accumulate ? out[i] : 0;
        for (std::size_t t = 0; t < terms; ++t)
            sum += uint128{xs[t][i]} * ys[t][i / repeat];
        out[i] = m.reduce(sum);
    }
}

void sum_of_mirrored_products_portable(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ends, std::size_t terms,
                                       std::size_t repeat, bool accumulate, std::size_t begin, std::size_t end, const Modulus& m) {
    for (std::size_t i = begin; i < end; ++i) {
        uint128 sum = accumulate ? out[i] : 0;
        for (std::size_t t = 0; t < terms; ++t)
            sum += uint128{xs[t][i]} * *(ends[t] - 1 - i / repeat);
        out[i] = m.reduce(sum);
    }
}

void linear_combination_portable(uint64_t* out, const uint64_t* const* xs, const uint64_t* cs, std::size_t terms,
                                 bool accumulate, std::size_t begin, std::size_t end, const Modulus& m) {
    for (std::size_t i = begin; i < end; ++i) {
        uint128 sum = accumulate ? out[i] : 0;
        for (std::size_t t = 0; t < terms; ++t)
            sum += uint128{xs[t][i]} * cs[t];
        out[i] = m.reduce(sum);
    }
}

auto linear_combination_kernel() {
#if defined(__x86_64__)
    if (instruction_set() == InstructionSet::kAvx512)
        return linear_combination_avx512;
    if (instruction_set() == InstructionSet::kAvx2)
        return linear_combination_avx2;
#endif
    return linear_combination_portable;
}

}  // namespace

void sum_of_products(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ys, std::size_t terms, std::size_t repeat,
                     bool accumulate, std::size_t n, const Modulus& m) {
#if defined(__x86_64__)
    if (instruction_set() == InstructionSet::kAvx512)
        return sum_of_products_avx512(out, xs, ys, terms, repeat, accumulate, 0, n, m);
    if (instruction_set() == InstructionSet::kAvx2)
        return sum_of_products_avx2(out, xs, ys, terms, repeat, accumulate, 0, n, m);
#endif
    sum_of_products_portable(out, xs, ys, terms, repeat, accumulate, 0, n, m);
}

void sum_of_mirrored_products(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ends, std::size_t terms,
                              std::size_t repeat, bool accumulate, std::size_t n, const Modulus& m) {
#if defined(__x86_64__)
    if (instruction_set() == InstructionSet::kAvx512)
        return sum_of_mirrored_products_avx512(out, xs, ends, terms, repeat, accumulate, 0, n, m);
    if (instruction_set() == InstructionSet::kAvx2)
        return sum_of_mirrored_products_avx2(out, xs, ends, terms, repeat, accumulate, 0, n, m);
#endif
    sum_of_mirrored_products_portable(out, xs, ends, terms, repeat, accumulate, 0, n, m);
}

void linear_combination(uint64_t* out, const uint64_t* const* xs, const uint64_t* cs, std::size_t terms, bool accumulate,
                        std::size_t n, const Modulus& m) {
    linear_combination_kernel()(out, xs, cs, terms, accumulate, 0, n, m);
}

void linear_combinations(uint64_t* const* outs, std::size_t count, const uint64_t* const* xs,
                         const uint64_t* const* cs, std::size_t terms, bool accumulate, std::size_t n,
                         const Modulus* const* ms) {
    constexpr std::size_t kBlock = 256;  // of a dozen xs fits the first cache
    const auto kernel            = linear_combination_kernel();
    for (std::size_t begin = 0; begin < n; begin += kBlock)
        for (std::size_t k = 0; k < count; ++k)
            kernel(outs[k], xs, cs[k], terms, accumulate, begin, std::min(begin + kBlock, n), *ms[k]);
}

}  // namespace fheinfer::ring
