#include "crypto/oracle.h"

#include <bit>

#include "base/error.h"
#include "crypto/lbcrypto.h"

namespace fheinfer {

struct OpenFheLimb::Limb {
    LimbPoly poly;
};

OpenFheLimb::OpenFheLimb(std::size_t n, uint64_t p, const std::vector<uint64_t>& x, bool evaluation) {
    const NativeInteger modulus(p);
    // OpenFHE looks for a root without end where there is none.
    if (!std::has_single_bit(n) || n < 16 || x.size() != n || p >> 60 || p < n || p % (2 * n) != 1 ||
        !lbcrypto::MillerRabinPrimalityTest(modulus))
        throw Error(ErrorKind::kUsage, "OpenFHE transforms a power of two of residues, 16 or more, modulo a prime that is 1 modulo "
                                       "twice as many; there is no transform of " +
                                           std::to_string(x.size()) + " modulo " + std::to_string(p));
    const NativeInteger psi = lbcrypto::RootOfUnity<NativeInteger>(2 * n, modulus);
    const auto params = std::make_shared<lbcrypto::ILNativeParams>(2 * n, modulus, psi);
    NativeVector values(n, modulus);
    for (std::size_t i = 0; i < n; ++i)
        values[i] = x[i];
    const auto format = evaluation ? Format::EVALUATION : Format::COEFFICIENT;
    limb_             = std::make_unique<Limb>(Limb{LimbPoly(params, format)});
    limb_->poly.SetValues(std::move(values), format);
}

OpenFheLimb::~OpenFheLimb() = default;

uint64_t OpenFheLimb::psi() const {
    return limb_->poly.GetRootOfUnity().ConvertToInt<uint64_t>();
}

std::vector<uint64_t> OpenFheLimb::values() const {
    const auto& v = limb_->poly.GetValues();
    std::vector<uint64_t> out(v.GetLength());
    for (std::size_t i = 0; i < out.size(); ++i)
        out[i] = v[i].ConvertToInt<uint64_t>();
    return out;
}

void OpenFheLimb::transform() {
    limb_->poly.SwitchFormat();
}

void OpenFheLimb::automorphism(uint32_t k) {
    limb_->poly = limb_->poly.AutomorphismTransform(k);
}

}  // namespace fheinfer
