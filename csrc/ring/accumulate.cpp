#include "ring/accumulate.h"

namespace fheinfer::ring {

void sum_of_products(uint64_t* out, const uint64_t* const* xs, const uint64_t* const* ys, std::size_t terms, std::size_t repeat,
                     bool accumulate, std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i) {
        uint128 sum = accumulate ? out[i] : 0;
        for (std::size_t t = 0; t < terms; ++t)
            sum += uint128{xs[t][i]} * ys[t][i / repeat];
        out[i] = m.reduce(sum);
    }
}

void linear_combination(uint64_t* out, const uint64_t* const* xs, const uint64_t* cs, std::size_t terms, bool accumulate,
                        std::size_t n, const Modulus& m) {
    for (std::size_t i = 0; i < n; ++i) {
        uint128 sum = accumulate ? out[i] : 0;
        for (std::size_t t = 0; t < terms; ++t)
            sum += uint128{xs[t][i]} * cs[t];
        out[i] = m.reduce(sum);
    }
}

}  // namespace fheinfer::ring
