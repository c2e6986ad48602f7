// Between OpenFHE's context, keys and bodies and the native backend (csrc/ckks).
#pragma once

#include <mutex>
#include <string>

#include "ckks/bootstrap.h"
#include "ckks/key_generation.h"
#include "crypto/key_format.h"
#include "crypto/keys.h"
#include "evaluator/native.h"

namespace fheinfer {

// The scale of every level.
std::vector<double> native_scales(const Context& context);
ckks::BootstrapParameters native_bootstrap(const Context& context, KeyPolicy keys);

// An evaluation key for an evaluator: what it is, and its bytes.
enum class KeyKind { kRelinearisation, kConjugation, kRotation, kToSparse, kToDense };
struct NamedKey {
    KeyKind kind;
    int rotation;  // of kRotation
    Bytes body;
};

// The native evaluator of a context, fed with bytes; those of keys have to stay where they are while it lives.
class NativeBackend : public NativeEvaluator {
public:
    NativeBackend(std::shared_ptr<Context> context, KeyPolicy keys);

    // See crypto/key_format.h.
    std::vector<ckks::SwitchingKey> read_keys(std::span<const NamedKey> keys) const;
    // Adds what read_keys made of the same keys; from several threads at a time, but not during an evaluation. The two
    // encapsulation keys come in one call.
    void add_keys(std::span<const NamedKey> keys, std::vector<ckks::SwitchingKey> read);
    CiphertextPtr read(Bytes body) const;
    // At the even level below on a composite-prime chain. See ckks/ciphertext_format.h for `dropped`.
    std::string write(const CiphertextPtr& x, int dropped = 0);

private:
    std::shared_ptr<Context> context_;
    std::mutex adding_;
};

// Makes evaluation keys from a client's secret.
class NativeKeys {
public:
    explicit NativeKeys(const ClientKeys& client);

    // A public key, of either backend, is a switching key from zero, with one digit of all limbs. What it encrypts is divided
    // by its special primes, and the noise with it.
    static constexpr std::size_t kPublicSpecials = 1;
    std::string public_key() const;
    std::string relinearisation_key() const;
    std::string conjugation_key() const;
    // Keys for rotations (rotation, limbs).
    std::vector<std::string> rotation_keys(const std::vector<std::pair<int, int>>& rotations) const;
    // Draws the ephemeral sparse secret; it is forgotten with this call. To the sparse secret modulo q_0 * p_0, and back.
    std::pair<std::string, std::string> encapsulation_keys() const;

private:
    // By the exponent of the inverse automorphism; conjugation is its own.
    std::string automorphism_key(uint64_t inverse, std::size_t limbs) const;
    std::string make(const ckks::Poly& from, const ckks::Poly& to, std::size_t limbs, std::size_t specials, bool one_digit) const;

    std::shared_ptr<Context> context_;
    std::shared_ptr<const ckks::Chain> chain_;
    ckks::SmallPoly secret_;
    ckks::SecretPoly evaluated_;
};

}  // namespace fheinfer
