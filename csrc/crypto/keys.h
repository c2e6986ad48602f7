// What the client makes: the secret key, the public key and the evaluation keys, one body each.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "crypto/serial.h"

namespace fheinfer {

// 32 bytes of OpenFHE's generator: a fresh seed for the uniform half of a key or a ciphertext.
ckks::Seed random_seed();

class ClientKeys {
public:
    // A fresh dense ternary secret and its public key.
    static ClientKeys generate(std::shared_ptr<Context> context, const std::string& key_tag);
    // Either may be empty: what needs it then throws Error(kUsage).
    static ClientKeys load(std::shared_ptr<Context> context, const std::string& key_tag, Bytes secret, Bytes public_key);
    ClientKeys(ClientKeys&&) = default;
    ~ClientKeys();

    SecretVector<char> secret() const;
    // The one that was loaded or generated; a fresh one where only the secret was.
    std::string public_key() const;

    // Evaluation keys for the server. They reveal nothing of the secret under the (circular) RLWE assumption.
    std::string relinearisation_key() const;
    std::string conjugation_key() const;
    // Keys for rotations (rotation, limbs), generated in parallel.
    std::vector<std::string> rotation_keys(const std::vector<std::pair<int, int>>& rotations) const;
    // Sparse-secret encapsulation (ePrint 2022/024): to an ephemeral secret of weight 32 modulo q_0 * p_0, and back to
    // the main secret. The ephemeral secret itself is forgotten here.
    std::pair<std::string, std::string> encapsulation_keys() const;

    // Encodes `values` (a power of two of them, repeating) at `level` and encrypts: under the secret key with c1 as a
    // seed, half the bytes, or under the public key where only that is loaded.
    std::string encrypt(std::span<const double> values, int level) const;
    // The first `count` slots.
    SecretVector<double> decrypt(Bytes ciphertext, std::size_t count) const;

    const Context& context() const {
        return *context_;
    }
    const std::shared_ptr<Context>& shared_context() const {
        return context_;
    }
    // Throw Error(kUsage) where only the other key was loaded.
    lbcrypto::PublicKey<Poly> openfhe_public() const;
    const lbcrypto::PrivateKey<Poly>& openfhe_secret() const;
    const std::string& tag() const {
        return tag_;
    }

private:
    ClientKeys(std::shared_ptr<Context> context, std::string tag) : context_(std::move(context)), tag_(std::move(tag)) {}

    std::shared_ptr<Context> context_;
    std::string tag_;
    // An encryption of zero modulo all primes and one special prime: a switching key from zero, with a seed for its a half.
    struct Public {
        std::string body;
        ckks::SwitchingKey key;  // of views of the body
    };
    std::string fresh_public() const;
    std::shared_ptr<const Public> read_public(std::string body) const;
    ckks::Ciphertext encryption_of_zero(std::size_t limbs, const ckks::Seed& seed) const;
    // (u b + e0, u a + e1) divided by the special prime, for a ternary u: what is left of the noise is that of rounding.
    ckks::Ciphertext public_encryption_of_zero(std::size_t limbs) const;

    lbcrypto::PrivateKey<Poly> secret_;
    std::shared_ptr<const Public> public_;
};

}  // namespace fheinfer
