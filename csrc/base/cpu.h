// Which instruction set the arithmetic uses on this processor: asked once at run time, never at build time.
#pragma once

#include <string>
#include <vector>

namespace fheinfer {

// All give the same bits; they differ in speed only.
enum class InstructionSet { kPortable, kAvx2, kAvx512 };

// The best one this processor has (kAvx512 means AVX-512 F, DQ, VL and IFMA), or the one that the environment variable
// FHEINFER_CPU names ("portable", "avx2", "avx512"). Throws Error(kUsage) for one it does not have.
InstructionSet instruction_set();
// For tests and benchmarks. Throws as above.
void set_instruction_set(const char* name);
const char* instruction_set_name();
// The names of those this processor has.
std::vector<std::string> instruction_sets();

}  // namespace fheinfer
