#include "crypto/native.h"

#include <cstring>

#include "base/error.h"
#include "ring/pointwise.h"

namespace fheinfer {

using namespace lbcrypto;
using Residues = ckks::Poly;  // Poly is OpenFHE's

std::vector<double> native_scales(const Context& context) {
    std::vector<double> out;
    for (int level = 0; level <= context.levels().top; ++level)
        out.push_back(context.scale(level));
    return out;
}

ckks::BootstrapParameters native_bootstrap(const Context& context, KeyPolicy keys) {
    const auto& p = context.params();
    return {static_cast<std::size_t>(p.slots), p.cts_budget, p.stc_budget, keys};
}

NativeBackend::NativeBackend(std::shared_ptr<Context> context, KeyPolicy keys)
    : NativeEvaluator(context->chain(), native_scales(*context), context->levels(),
                      static_cast<std::size_t>(context->params().slots), native_bootstrap(*context, keys)),
      context_(std::move(context)) {}

std::vector<ckks::SwitchingKey> NativeBackend::read_keys(std::span<const NamedKey> keys) const {
    std::vector<Bytes> bodies;
    for (const auto& key : keys)
        bodies.push_back(key.body);
    return read_switching_keys(chain(), bodies);
}

void NativeBackend::add_keys(std::span<const NamedKey> keys, std::vector<ckks::SwitchingKey> read) {
    std::size_t sparse = keys.size(), dense = keys.size();
    for (std::size_t i = 0; i < keys.size(); ++i) {
        if (keys[i].kind == KeyKind::kToSparse)
            sparse = i;
        if (keys[i].kind == KeyKind::kToDense)
            dense = i;
    }
    if ((sparse < keys.size()) != (dense < keys.size()))
        throw Error(ErrorKind::kUsage, "the keys to_sparse and to_dense come together");
    const std::lock_guard lock(adding_);
    for (std::size_t i = 0; i < keys.size(); ++i)
        if (keys[i].kind == KeyKind::kRelinearisation)
            set_relinearisation_key(std::move(read[i]));
        else if (keys[i].kind == KeyKind::kConjugation)
            set_conjugation_key(std::move(read[i]));
        else if (keys[i].kind == KeyKind::kRotation)
            add_rotation_key(keys[i].rotation, std::move(read[i]));
    if (sparse < keys.size())
        set_encapsulation_keys(std::move(read[sparse]), std::move(read[dense]));
}

CiphertextPtr NativeBackend::read(Bytes body) const {
    auto x  = ckks::read(chain(), body);
    x.scale = context_->scale(chain().level(x.c0));
    return wrap(std::move(x));
}

std::string NativeBackend::write(const CiphertextPtr& x, int dropped) {
    // OpenFHE, which decrypts, does not know the sprout prime of odd levels.
    const int low = level(x) - (context_->params().composite ? level(x) % 2 : 0);
    return ckks::write(chain(), get(drop_to(x, low)), dropped);
}

NativeKeys::NativeKeys(const ClientKeys& client) : context_(client.shared_context()), chain_(client.context().chain()) {
    const auto bytes = client.secret();
    secret_.reserve(bytes.size());
    for (char c : bytes)
        secret_.push_back(static_cast<signed char>(c));
    evaluated_ = ckks::evaluate(*chain_, secret_);
}

std::string NativeKeys::make(const Residues& from, const Residues& to, std::size_t limbs, std::size_t specials, bool one_digit) const {
    const auto& gaussian = context_->crypto_parameters().GetDiscreteGaussianGenerator();
    const auto noise     = [&] {
        return draw(gaussian, chain_->n());
    };
    const auto seed = random_seed();
    return write_switching_key(ckks::switching_key(*chain_, from, to, limbs, specials, one_digit, seed, noise), seed);
}

// Key switching comes first, the automorphism after it: the key leads to the secret that the automorphism takes back.
std::string NativeKeys::automorphism_key(uint64_t inverse, std::size_t limbs) const {
    const auto to = ckks::evaluate(*chain_, ckks::automorphism(secret_, inverse));
    return make(evaluated_, to, limbs, chain_->specials_for(limbs), false);
}

std::string NativeKeys::public_key() const {
    Residues zero(chain_->q_count(), chain_->n());
    std::memset(zero[0], 0, zero.limbs() * zero.n() * sizeof(uint64_t));
    return make(zero, evaluated_, chain_->q_count(), kPublicSpecials, true);
}

std::string NativeKeys::relinearisation_key() const {
    ckks::SecretPoly square(evaluated_.limbs(), chain_->n());
    for (std::size_t i = 0; i < square.limbs(); ++i)
        ring::multiply(square[i], evaluated_[i], evaluated_[i], chain_->n(), chain_->modulus(i));
    return make(square, evaluated_, chain_->q_count(), chain_->specials_for(chain_->q_count()), false);
}

std::string NativeKeys::conjugation_key() const {
    return automorphism_key(2 * chain_->n() - 1, chain_->q_count() - static_cast<std::size_t>(context_->params().cts_budget));
}

std::vector<std::string> NativeKeys::rotation_keys(const std::vector<std::pair<int, int>>& rotations) const {
    std::vector<std::string> out;
    for (const auto& [rotation, limbs] : rotations) {
        if (limbs < 1 || limbs > static_cast<int>(context_->q().size()))
            throw Error(ErrorKind::kUsage, "no rotation key of " + std::to_string(limbs) + " limbs");
        out.push_back(automorphism_key(ring::rotation_exponent(chain_->n(), -rotation),
                                       chain_->sprout_count() + static_cast<std::size_t>(limbs)));
    }
    return out;
}

std::pair<std::string, std::string> NativeKeys::encapsulation_keys() const {
    ckks::SmallPoly sparse(chain_->n(), 0);
    auto& generator = PseudoRandomNumberGenerator::GetPRNG();
    for (int placed = 0; placed < ckks::kSparseWeight;) {
        const auto word = static_cast<uint32_t>(generator());
        auto& place     = sparse[(word >> 1) % chain_->n()];  // n is a power of two: uniform
        if (place != 0)
            continue;
        place = word & 1 ? 1 : -1;
        ++placed;
    }
    const auto evaluated = ckks::evaluate(*chain_, sparse);
    return {make(evaluated_, evaluated, 1, 1, false), make(evaluated, evaluated_, chain_->q_count(), 1, true)};
}

}  // namespace fheinfer
