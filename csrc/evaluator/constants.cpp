#include "evaluator/constants.h"

#include <algorithm>

#include "base/error.h"

namespace fheinfer {

LinearMapConstants::LinearMapConstants(LinearMap map, ckks::Tier tier) : map_(std::move(map)), tier_(tier) {
    map_.check();
}

std::shared_ptr<const ckks::EncodedDiagonals> LinearMapConstants::encoded(const ckks::Chain& chain, const ckks::Target& target) {
    if (tier_ == ckks::Tier::kStreamed)
        return nullptr;
    const std::lock_guard lock(mutex_);
    if (!encoded_) {
        encoded_ = std::make_shared<ckks::EncodedDiagonals>(chain, map_, target, tier_, ckks::Window::all(map_));
        target_  = target;
    }
    else if (!(target_ == target)) {
        throw Error(ErrorKind::kUsage, "these constants were encoded for " + std::to_string(target_.rows.limbs) +
                                           " limbs or another scale, not for " + std::to_string(target.rows.limbs) +
                                           "; keep constants for each place where a linear map is used");
    }
    return encoded_;
}

std::size_t LinearMapConstants::bytes() const {
    const std::lock_guard lock(mutex_);
    return encoded_ ? encoded_->bytes() : 0;
}

std::size_t LinearMapConstants::bytes(ckks::Tier tier, std::size_t limbs) const {
    const auto present      = static_cast<std::size_t>(std::count(map_.present.begin(), map_.present.end(), 1));
    const std::size_t words = 2 * map_.period;
    switch (tier) {
        case ckks::Tier::kStreamed:
            return 0;
        case ckks::Tier::kCoefficients:
            return present * words * sizeof(int64_t);
        default:
            return present * words * limbs * sizeof(uint64_t);
    }
}

}  // namespace fheinfer
