#include "crypto/native.h"

#include <cstring>

#include "base/error.h"
#include "base/parallel.h"
#include "ring/pointwise.h"

namespace fheinfer {

using namespace lbcrypto;
using Residues = ckks::Poly;  // ours; Poly is OpenFHE's

namespace {

// Counts, seed, and zeros, so that rows which are aligned in a file are so in memory.
constexpr std::size_t kHeader = 64;

void append(std::string& out, std::size_t v) {
    const auto u = static_cast<uint32_t>(v);
    out.append(reinterpret_cast<const char*>(&u), sizeof u);
}

std::string write_key(const ckks::SwitchingKey& key, const ckks::Seed& seed) {
    std::string out;
    const std::size_t row = key.b[0].n() * sizeof(uint64_t), rows = key.limbs + key.specials;
    out.reserve(kHeader + key.b.size() * rows * row);
    append(out, key.b.size());
    append(out, key.limbs);
    append(out, key.specials);
    out.append(reinterpret_cast<const char*>(seed.data()), seed.size());
    out.resize(kHeader);
    for (const auto& half : key.b)
        out.append(reinterpret_cast<const char*>(half[0]), rows * row);
    return out;
}

// A view, once every residue is below its prime.
Residues read_rows(const ckks::Chain& chain, std::size_t rows, std::size_t limbs, const std::byte* from) {
    auto out = Residues::view(reinterpret_cast<const uint64_t*>(from), rows, chain.n());
    parallel_for(rows, [&](std::size_t i) {
        const uint64_t p = chain.modulus(chain.prime(i, limbs)).p;
        bool fine        = true;
        for (std::size_t k = 0; k < chain.n(); ++k)
            fine &= out[i][k] < p;
        if (!fine)
            throw Error(ErrorKind::kCorrupt, "a payload holds a residue that is not below its prime");
    });
    return out;
}

}  // namespace

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

ckks::SwitchingKey read_switching_key(const ckks::Chain& chain, Bytes payload) {
    uint32_t counts[3];
    if (payload.size() < kHeader)
        throw Error(ErrorKind::kCorrupt, "a payload ends before its header does");
    std::memcpy(counts, payload.data(), sizeof counts);
    const auto [digits, limbs, specials] = counts;
    if (limbs < 1 || limbs > chain.q_count() || specials < 1 || specials > chain.special_count() || digits < 1 ||
        (digits != 1 && digits != chain.digits(limbs)))
        throw Error(ErrorKind::kCorrupt, "a switching key whose counts contradict each other");
    const std::size_t rows = limbs + specials, bytes = rows * chain.n() * sizeof(uint64_t);
    if (payload.size() != kHeader + digits * bytes)
        throw Error(ErrorKind::kCorrupt, "a payload of the wrong length");
    if (reinterpret_cast<std::uintptr_t>(payload.data()) % alignof(uint64_t) != 0)
        throw Error(ErrorKind::kUsage, "a switching key has to stand at a multiple of 8 bytes in memory");
    ckks::Seed seed;
    std::memcpy(seed.data(), payload.data() + sizeof counts, seed.size());
    ckks::SwitchingKey key{limbs, specials, {}, {}};
    for (uint32_t j = 0; j < digits; ++j)
        key.b.push_back(read_rows(chain, rows, limbs, payload.data() + kHeader + j * bytes));
    ckks::expand(chain, key, seed);
    return key;
}

std::size_t switching_key_bytes(const ckks::Chain& chain, std::size_t limbs) {
    const std::size_t primes = chain.half() + limbs;
    return kHeader + chain.digits(primes) * (primes + chain.specials_for(primes)) * chain.n() * sizeof(uint64_t);
}

NativeBackend::NativeBackend(std::shared_ptr<Context> context, KeyPolicy keys)
    : NativeEvaluator(context->chain(), native_scales(*context), context->levels(),
                      static_cast<std::size_t>(context->params().slots), native_bootstrap(*context, keys)),
      context_(std::move(context)) {}

void NativeBackend::add_relinearisation_key(Bytes payload) {
    set_relinearisation_key(read_switching_key(chain(), payload));
}

void NativeBackend::add_conjugation_key(Bytes payload) {
    set_conjugation_key(read_switching_key(chain(), payload));
}

void NativeBackend::add_rotation_key(int rotation, Bytes payload) {
    NativeEvaluator::add_rotation_key(rotation, read_switching_key(chain(), payload));
}

void NativeBackend::add_encapsulation_keys(Bytes to_sparse, Bytes to_dense) {
    set_encapsulation_keys(read_switching_key(chain(), to_sparse), read_switching_key(chain(), to_dense));
}

CiphertextPtr NativeBackend::read(Bytes payload) const {
    auto x  = ckks::read(chain(), payload);
    x.scale = context_->scale(chain().level(x.c0));
    return wrap(std::move(x));
}

std::string NativeBackend::write(const CiphertextPtr& x, int dropped) {
    // OpenFHE, which decrypts, does not know the half prime of odd levels.
    const int low = level(x) - (context_->params().paired ? level(x) % 2 : 0);
    return ckks::write(chain(), get(drop_to(x, low)), dropped);
}

NativeKeys::NativeKeys(const ClientKeys& client) : context_(client.shared_context()), chain_(client.context().chain()) {
    const auto bytes = client.secret();
    for (char c : bytes)
        secret_.push_back(static_cast<signed char>(c));
    evaluated_ = ckks::evaluate(*chain_, secret_);
}

std::string NativeKeys::make(const Residues& from, const Residues& to, std::size_t limbs, std::size_t specials, bool one_digit) const {
    const auto& gaussian = context_->crypto_parameters().GetDiscreteGaussianGenerator();
    const auto noise     = [&] {
        const auto drawn = gaussian.GenerateIntVector(static_cast<uint32_t>(chain_->n()));
        return ckks::SmallPoly(drawn.get(), drawn.get() + chain_->n());
    };
    const auto seed = random_seed();
    return write_key(ckks::switching_key(*chain_, from, to, limbs, specials, one_digit, seed, noise), seed);
}

// Key switching comes first, the automorphism after it: the key leads to the secret that the automorphism takes back.
std::string NativeKeys::automorphism_key(uint64_t inverse, std::size_t limbs) const {
    return make(evaluated_, ckks::evaluate(*chain_, ckks::automorphism(secret_, inverse)), limbs, chain_->specials_for(limbs), false);
}

std::string NativeKeys::relinearisation_key() const {
    Residues square(evaluated_.limbs(), chain_->n());
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
        out.push_back(automorphism_key(ring::rotation_exponent(chain_->n(), -rotation), chain_->half() + static_cast<std::size_t>(limbs)));
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
