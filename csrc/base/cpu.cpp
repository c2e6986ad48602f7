#include "base/cpu.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/error.h"

namespace fheinfer {

namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512"};

InstructionSet best() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512ifma"))
        return InstructionSet::kAvx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return InstructionSet::kAvx2;
#endif
    return InstructionSet::kPortable;
}

InstructionSet named(const char* name) {
    for (int i = 0; i < 3; ++i)
        if (std::strcmp(name, kNames[i]) == 0) {
            if (i > static_cast<int>(best()))
                throw Error(ErrorKind::kUsage, std::string("this processor has no ") + name);
            return static_cast<InstructionSet>(i);
        }
    throw Error(ErrorKind::kUsage, std::string("no instruction set ") + name + "; there are portable, avx2, avx512");
}

std::atomic<int> chosen{-1};

}  // namespace

InstructionSet instruction_set() {
    int set = chosen.load(std::memory_order_relaxed);
    if (set < 0) {
        const char* asked = std::getenv("FHEINFER_CPU");
        set               = static_cast<int>(asked && *asked ? named(asked) : best());
        chosen            = set;
    }
    return static_cast<InstructionSet>(set);
}

void set_instruction_set(const char* name) {
    chosen = static_cast<int>(named(name));
}

const char* instruction_set_name() {
    return kNames[static_cast<int>(instruction_set())];
}

std::vector<std::string> instruction_sets() {
    return {kNames, kNames + static_cast<int>(best()) + 1};
}

}  // namespace fheinfer
