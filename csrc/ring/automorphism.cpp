#include "ring/automorphism.h"

#include <bit>

#include "base/cpu.h"
#include "ring/bit_reversal.h"

#if defined(__x86_64__)
#include "ring/avx512.h"
#endif

namespace fheinfer::ring {

namespace {

#if defined(__x86_64__)

FHEINFER_AVX512 void permute_avx512(uint64_t* out, const uint64_t* x, const std::vector<uint32_t>& permutation) {
    using namespace avx512;
    for (std::size_t i = 0; i < permutation.size(); i += kLanes) {
        const uint32_t* from = permutation.data() + i;
        const Lanes lanes    = _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
        store(out + i, _mm512_permutexvar_epi64(lanes, load(x + *from / kLanes * kLanes)));  // looks at 3 bits of lanes
    }
}

#endif

}  // namespace

std::vector<uint32_t> automorphism(std::size_t n, uint64_t k) {
    const int bits      = std::countr_zero(n);
    const uint64_t mask = 2 * n - 1;
    std::vector<uint32_t> out(n);
    for (std::size_t j = 0; j < n; ++j) {
        const uint64_t power = ((2 * j + 1) * k) & mask;
        out[reverse_bits(j, bits)] = static_cast<uint32_t>(reverse_bits(power >> 1, bits));
    }
    return out;
}

void permute(uint64_t* out, const uint64_t* x, const std::vector<uint32_t>& permutation) {
#if defined(__x86_64__)
    if (instruction_set() == InstructionSet::kAvx512)
        return permute_avx512(out, x, permutation);
#endif
    for (std::size_t i = 0; i < permutation.size(); ++i)
        out[i] = x[permutation[i]];
}

uint64_t rotation_exponent(std::size_t n, long k) {
    const uint64_t mask = 2 * n - 1;
    const long half     = static_cast<long>(n / 2);
    uint64_t out = 1, base = 5;
    for (auto e = static_cast<uint64_t>(((k % half) + half) % half); e; e >>= 1, base = base * base & mask)
        if (e & 1)
            out = out * base & mask;
    return out;
}

}  // namespace fheinfer::ring
