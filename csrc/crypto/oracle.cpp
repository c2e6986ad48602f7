#include "crypto/oracle.h"

#include "crypto/lbcrypto.h"

namespace fheinfer {

std::string openfhe_rescale(const Context& context, Bytes ciphertext) {
    auto x = read_ciphertext(context, "oracle", ciphertext);
    x->SetNoiseScaleDeg(2);
    context.openfhe()->GetScheme()->ModReduceInternalInPlace(x, 1);
    return write_ciphertext(context, x);
}

struct OpenFheLimb::Limb {
    LimbPoly poly;
};

OpenFheLimb::OpenFheLimb(std::size_t n, uint64_t p, const std::vector<uint64_t>& x, bool evaluation) {
    const NativeInteger modulus(p), psi = lbcrypto::RootOfUnity<NativeInteger>(2 * n, modulus);
    const auto params = std::make_shared<lbcrypto::ILNativeParams>(2 * n, modulus, psi);
    NativeVector values(n, modulus);
    for (std::size_t i = 0; i < n; ++i)
        values[i] = x.at(i);
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
