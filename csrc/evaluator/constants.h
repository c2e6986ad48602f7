// What is kept of a linear map between evaluations.
#pragma once

#include <memory>
#include <mutex>

#include "ckks/diagonals.h"

namespace fheinfer {

// A linear map with its diagonals encoded at first use, for the level and scale they are used at. Independent of any client's
// keys: shared between sessions, evaluators and threads.
class LinearMapConstants {
public:
    // kStreamed keeps nothing.
    LinearMapConstants(LinearMap map, ckks::Tier tier);

    const LinearMap& map() const {
        return map_;
    }
    ckks::Tier tier() const {
        return tier_;
    }
    // Null for kStreamed. Throws Error(kUsage) for another level or scale than at the first use.
    std::shared_ptr<const ckks::EncodedDiagonals> encoded(const ckks::Chain& chain, const ckks::Target& target);
    // Held now.
    std::size_t bytes() const;
    // That a tier would hold at `limbs` limbs, at most: a quarter and a half of it where the scale is short (Coefficients).
    std::size_t bytes(ckks::Tier tier, std::size_t limbs) const;

private:
    LinearMap map_;
    ckks::Tier tier_;
    mutable std::mutex mutex_;
    ckks::Target target_;
    std::shared_ptr<const ckks::EncodedDiagonals> encoded_;
};

}  // namespace fheinfer
