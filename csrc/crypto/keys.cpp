#include "crypto/keys.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>

#include "base/error.h"
#include "base/parallel.h"
#include "ckks/key_generation.h"
#include "crypto/key_format.h"
#include "crypto/native.h"
#include "evaluator/level_rules.h"
#include "ring/pointwise.h"

namespace fheinfer {

using namespace lbcrypto;

namespace {

// The slot count whose bootstrapping setup is cheapest; its key generation is used for the two encapsulation keys.
constexpr int kFewestSlots = 2;

// The distribution of secrets is a setting of the context, which all clients of a process share.
std::mutex distribution_in_use;

// Sets it to dense ternary secrets for as long as this lives.
class DenseSecrets {
public:
    explicit DenseSecrets(CryptoParametersCKKSRNS& parameters) : parameters_(parameters), before_(parameters.GetSecretKeyDist()) {
        parameters_.SetSecretKeyDist(UNIFORM_TERNARY);
    }
    ~DenseSecrets() {
        parameters_.SetSecretKeyDist(before_);
    }
    DenseSecrets(const DenseSecrets&)            = delete;
    DenseSecrets& operator=(const DenseSecrets&) = delete;

private:
    CryptoParametersCKKSRNS& parameters_;
    SecretKeyDist before_;
};

OpenFheKey automorphism_key(const Context& context, const PrivateKey<Poly>& secret, uint32_t index) {
    return context.openfhe()->GetScheme()->EvalAutomorphismKeyGen(secret, {index})->at(index);
}

const uint64_t* words(const Poly& poly, std::size_t limb) {
    return reinterpret_cast<const uint64_t*>(&poly.GetElementAtIndex(static_cast<uint32_t>(limb)).GetValues()[0]);
}

template <typename Key>
const Key& present(const Key& key, const char* what) {
    if (!key)
        throw Error(ErrorKind::kUsage, std::string("this needs the ") + what + " key");
    return key;
}

}  // namespace

ckks::Seed random_seed() {
    ckks::Seed seed;
    auto& generator = PseudoRandomNumberGenerator::GetPRNG();
    for (std::size_t i = 0; i < seed.size(); i += sizeof(uint32_t)) {
        const auto word = static_cast<uint32_t>(generator());
        std::memcpy(seed.data() + i, &word, sizeof word);
    }
    return seed;
}

PublicKey<Poly> ClientKeys::openfhe_public() const {
    const auto& key = present(public_, "public")->key;
    auto out        = std::make_shared<PublicKeyImpl<Poly>>(context_->openfhe(), tag_);
    out->SetPublicElements({to_openfhe(*context_, key.b[0], context_->q().size()), to_openfhe(*context_, key.a[0], context_->q().size())});
    return out;
}

const PrivateKey<Poly>& ClientKeys::openfhe_secret() const {
    return present(secret_, "secret");
}

ClientKeys::~ClientKeys() {
    if (secret_.use_count() == 1)
        wipe(secret_->GetPrivateElement());
}

ClientKeys ClientKeys::generate(std::shared_ptr<Context> context, const std::string& key_tag) {
    ClientKeys keys(std::move(context), key_tag);
    // OpenFHE draws a main secret of weight 192 in its encapsulated mode. The 128-bit tables assume a dense one, and
    // encapsulation needs no sparse main secret: draw it as OpenFHE draws a uniform ternary secret.
    const auto pair = [&] {
        const std::lock_guard lock(distribution_in_use);
        const DenseSecrets dense(keys.context_->crypto_parameters());
        return keys.context_->openfhe()->KeyGen();
    }();
    keys.secret_ = pair.secretKey;
    keys.secret_->SetKeyTag(key_tag);
    keys.public_ = keys.read_public(keys.fresh_public());
    return keys;
}

ClientKeys ClientKeys::load(std::shared_ptr<Context> context, const std::string& key_tag, Bytes secret, Bytes public_key) {
    ClientKeys keys(std::move(context), key_tag);
    if (!secret.empty())
        keys.secret_ = read_secret(*keys.context_, key_tag, secret);
    if (!public_key.empty())
        keys.public_ = keys.read_public({reinterpret_cast<const char*>(public_key.data()), public_key.size()});
    return keys;
}

SecretVector<char> ClientKeys::secret() const {
    return write_secret(*context_, openfhe_secret());
}

std::string ClientKeys::public_key() const {
    return public_ ? public_->body : fresh_public();
}

std::string ClientKeys::fresh_public() const {
    return NativeKeys(*this).public_key();
}

std::shared_ptr<const ClientKeys::Public> ClientKeys::read_public(std::string body) const {
    auto out  = std::make_shared<Public>();
    out->body = std::move(body);
    const Bytes bytes = std::as_bytes(std::span(out->body));
    out->key  = std::move(read_switching_keys(*context_->chain(), {&bytes, 1})[0]);
    if (out->key.b.size() != 1 || out->key.limbs != context_->chain()->q_count() || out->key.specials != NativeKeys::kPublicSpecials)
        throw Error(ErrorKind::kCorrupt, "a public key has one digit of all limbs and one special prime");
    return out;
}

std::string ClientKeys::relinearisation_key() const {
    const auto key = context_->openfhe()->GetScheme()->EvalMultKeyGen(openfhe_secret());
    return write_evaluation_key(*context_, key, static_cast<int>(context_->q().size()));
}

std::string ClientKeys::conjugation_key() const {
    const auto index = static_cast<uint32_t>(2 * context_->ring_dimension() - 1);
    // Used once, after CoeffToSlot.
    const int limbs = static_cast<int>(context_->q().size()) - context_->params().cts_budget;
    return write_evaluation_key(*context_, automorphism_key(*context_, openfhe_secret(), index), limbs);
}

std::vector<std::string> ClientKeys::rotation_keys(const std::vector<std::pair<int, int>>& rotations) const {
    openfhe_secret();
    std::vector<std::string> out(rotations.size());
    parallel_for(rotations.size(), [&](std::size_t i) {
        const auto [rotation, limbs] = rotations[i];
        const auto index             = context_->openfhe()->FindAutomorphismIndex(rotation);
        out[i] = write_evaluation_key(*context_, automorphism_key(*context_, secret_, index), limbs);
    });
    return out;
}

std::pair<std::string, std::string> ClientKeys::encapsulation_keys() const {
    if (context_->params().native)
        throw Error(ErrorKind::kUsage, "these are OpenFHE's encapsulation keys; this set takes those of NativeKeys");
    const std::lock_guard lock(distribution_in_use);
    const auto& cc = context_->openfhe();
    cc->EvalBootstrapSetup({1, 1}, {0, 0}, kFewestSlots, context_->correction_factor(), false);
    // OpenFHE files what it makes under the key's tag, process-wide: use a tag nobody else has.
    auto key = std::make_shared<PrivateKeyImpl<Poly>>(*openfhe_secret());
    key->SetKeyTag(tag_ + "/encapsulation");
    cc->EvalBootstrapKeyGen(key, kFewestSlots);
    const auto keys     = CryptoContextImpl<Poly>::GetEvalAutomorphismKeyMap(key->GetKeyTag());
    const uint32_t m    = 2 * context_->ring_dimension();
    const auto to_sparse = keys.at(m - 4), to_dense = keys.at(m - 2);
    CryptoContextImpl<Poly>::ClearEvalAutomorphismKeys(key->GetKeyTag());
    wipe(key->GetPrivateElement());
    return {write_encapsulation_key(to_sparse),
            write_evaluation_key(*context_, to_dense, static_cast<int>(context_->q().size()))};
}

std::string ClientKeys::encrypt(std::span<const double> values, int level) const {
    if (!secret_)
        present(public_, "public");
    check_period(values.size(), context_->params().slots);
    if (!std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); }))
        throw Error(ErrorKind::kUsage, "only finite values can be encrypted");
    if (level < 0 || level > context_->levels().top)
        throw Error(ErrorKind::kUsage, "no level " + std::to_string(level) + " to encrypt at");
    if (context_->params().composite && level % 2)
        throw Error(ErrorKind::kUsage,
                    "encryption on a composite-prime chain is at even levels, not at " + std::to_string(level));
    const auto& cc    = context_->openfhe();
    const auto limbs  = static_cast<std::size_t>(context_->levels().limbs(level));
    const auto before = static_cast<uint32_t>(context_->q().size() - limbs);
    // OpenFHE encodes at the scale it has for this many limbs.
    std::vector<double> encoded(values.begin(), values.end());
    const double ratio = context_->scale(level) / context_->openfhe_scale(limbs);
    for (auto& v : encoded)
        v *= ratio;
    const auto plain = cc->MakeCKKSPackedPlaintext(encoded, 1, before, nullptr, static_cast<uint32_t>(values.size()));
    wipe(encoded.data(), encoded.size() * sizeof(double));
    auto message = plain->GetElement<Poly>();
    message.SetFormat(Format::EVALUATION);
    const auto& chain = *context_->chain();
    std::optional<ckks::Seed> seed;
    if (secret_)
        seed = random_seed();
    auto x = seed ? encryption_of_zero(limbs, *seed) : public_encryption_of_zero(limbs);
    for (std::size_t i = 0; i < limbs; ++i)
        ring::add(x.c0[i], x.c0[i], words(message, i), chain.n(), chain.modulus(chain.sprout_count() + i));
    wipe(message);
    wipe(plain);
    return ckks::write(chain, x, 0, seed);
}

// (e - a s, a) on the first primes of OpenFHE's chain, a the keystream of a seed.
ckks::Ciphertext ClientKeys::encryption_of_zero(std::size_t limbs, const ckks::Seed& seed) const {
    const auto& chain   = *context_->chain();
    const std::size_t n = chain.n(), first = chain.sprout_count();
    const auto error    = draw(context_->crypto_parameters().GetDiscreteGaussianGenerator(), n);
    ckks::Ciphertext x{ckks::Poly(limbs, n, first), ckks::Poly(limbs, n, first), 0};
    ckks::SecretPoly product(1, n);
    for (std::size_t i = 0; i < limbs; ++i) {
        const auto& m = chain.modulus(first + i);
        ring::lift(x.c0[i], error.data(), n, m);
        chain.ntt(first + i).forward(x.c0[i]);
        ckks::uniform(x.c1[i], n, m, seed, 0, static_cast<uint32_t>(i));
        ring::multiply(product[0], x.c1[i], words(openfhe_secret()->GetPrivateElement(), i), n, m);
        ring::subtract(x.c0[i], x.c0[i], product[0], n, m);
    }
    return x;
}

ckks::Ciphertext ClientKeys::public_encryption_of_zero(std::size_t limbs) const {
    const auto& chain   = *context_->chain();
    const auto& key     = public_->key;
    const std::size_t n = chain.n(), first = chain.sprout_count();
    const auto& gaussian = context_->crypto_parameters().GetDiscreteGaussianGenerator();
    const auto u = draw_ternary(n), e0 = draw(gaussian, n), e1 = draw(gaussian, n);
    ckks::Poly c0(limbs + 1, n, first), c1(limbs + 1, n, first);
    parallel_for(limbs + 1, [&](std::size_t row) {
        const std::size_t prime = chain.prime(row, limbs, first), at = row < limbs ? prime : key.limbs;
        const auto& m = chain.modulus(prime);
        ckks::SecretPoly factor(1, n), error(1, n);
        ring::lift(factor[0], u.data(), n, m);
        chain.ntt(prime).forward(factor[0]);
        const auto half = [&](uint64_t* out, const uint64_t* k, const SecretVector<int64_t>& e) {
            ring::lift(error[0], e.data(), n, m);
            chain.ntt(prime).forward(error[0]);
            ring::multiply(out, factor[0], k, n, m);
            ring::add(out, out, error[0], n, m);
        };
        half(c0[row], key.b[0][at], e0);
        half(c1[row], key.a[0][at], e1);
    });
    return {ckks::divide(chain, c0, NativeKeys::kPublicSpecials), ckks::divide(chain, c1, NativeKeys::kPublicSpecials), 0};
}

SecretVector<double> ClientKeys::decrypt(Bytes ciphertext, std::size_t count) const {
    openfhe_secret();
    const auto ct = read_ciphertext(*context_, tag_, ciphertext);
    Plaintext plain;
    context_->openfhe()->Decrypt(secret_, ct, &plain);
    plain->SetLength(context_->params().slots);
    const auto& slots = plain->GetCKKSPackedValue();
    SecretVector<double> values(std::min(count, slots.size()));
    for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = slots[i].real();
    wipe(plain);
    return values;
}

}  // namespace fheinfer
