// Between OpenFHE's context, keys and payloads and our own evaluation (csrc/ckks).
#pragma once

#include <string>

#include "ckks/bootstrap.h"
#include "ckks/key_generation.h"
#include "ckks/payload.h"
#include "crypto/keys.h"
#include "evaluator/native.h"

namespace fheinfer {

// The scale of every level.
std::vector<double> native_scales(const Context& context);
ckks::BootstrapParameters native_bootstrap(const Context& context, KeyPolicy keys);

// [digits u32][limbs u32][specials u32][seed, 32 bytes][zeros to 64 bytes] then per digit the b half, (limbs + specials) x N
// residues: checked, then used where they stand, so the payload has to outlive the key. The uniform half is the keystream
// of the seed (ckks/random.h).
ckks::SwitchingKey read_switching_key(const ckks::Chain& chain, Bytes payload);
// Of one that serves ciphertexts of so many limbs.
std::size_t switching_key_bytes(const ckks::Chain& chain, std::size_t limbs);

// The native evaluator of a context, fed with payloads; those of keys have to stay where they are while it lives.
class NativeBackend final : public NativeEvaluator {
public:
    NativeBackend(std::shared_ptr<Context> context, KeyPolicy keys);

    void add_relinearisation_key(Bytes payload);
    void add_conjugation_key(Bytes payload);
    void add_rotation_key(int rotation, Bytes payload);
    void add_encapsulation_keys(Bytes to_sparse, Bytes to_dense);
    CiphertextPtr read(Bytes payload) const;
    // At the even level below where the chain is paired. See ckks/payload.h for `dropped`.
    std::string write(const CiphertextPtr& x, int dropped = 0);

private:
    std::shared_ptr<Context> context_;
};

// Makes evaluation keys from a client's secret.
class NativeKeys {
public:
    explicit NativeKeys(const ClientKeys& client);

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
    ckks::Poly evaluated_;
};

}  // namespace fheinfer
