// The checks every evaluator makes in the same words.
#pragma once

#include <bit>
#include <string>

#include "base/error.h"
#include "evaluator/evaluator.h"

namespace fheinfer {

inline int level_after(int level, int consumed, const char* what) {
    if (level < consumed)
        throw Error(ErrorKind::kBackend, std::string("no level left for a ") + what + ": at level " + std::to_string(level) +
                                             ", needs " + std::to_string(consumed));
    return level - consumed;
}

inline void check_bootstrap(int level, const LevelModel& levels) {
    if (levels.after_bootstrap <= 0)
        throw Error(ErrorKind::kBackend, "this parameter set has no bootstrapping");
    if (level < levels.bootstrap_min)
        throw Error(ErrorKind::kBackend, "a bootstrap needs level " + std::to_string(levels.bootstrap_min) + ", not " +
                                             std::to_string(level));
}

inline int check_drop(int from, int to) {
    if (to < 0 || to > from)
        throw Error(ErrorKind::kBackend,
                    "cannot drop from level " + std::to_string(from) + " to level " + std::to_string(to));
    return to;
}

inline void check_period(std::size_t period, std::size_t slots) {
    if (!std::has_single_bit(period) || period > slots)
        throw Error(ErrorKind::kUsage, std::to_string(period) + " values do not repeat in " + std::to_string(slots) + " slots");
}

inline void check_linear_map(std::size_t inputs, const LinearMap& map, std::size_t slots) {
    map.check();
    check_period(map.period, slots);
    if (inputs != static_cast<std::size_t>(map.inputs))
        throw Error(ErrorKind::kUsage, "a linear map of " + std::to_string(map.inputs) + " ciphertexts, not " + std::to_string(inputs));
}

// k mod slots in [0, slots).
inline long positive_rotation(long k, std::size_t slots) {
    const long n = static_cast<long>(slots);
    return ((k % n) + n) % n;
}

}  // namespace fheinfer
