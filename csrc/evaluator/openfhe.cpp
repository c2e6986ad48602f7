#include "evaluator/openfhe.h"

#include <atomic>
#include <cstring>

#include "base/error.h"
#include "base/parallel.h"
#include "evaluator/level_rules.h"

namespace fheinfer {

using namespace lbcrypto;

namespace {

using KeyMaps = CryptoContextImpl<Poly>;

const OpenFheCt& get(const CiphertextPtr& x) {
    if (const auto* p = dynamic_cast<const OpenFheCiphertext*>(x.get()))
        return p->ct;
    throw Error(ErrorKind::kUsage, "not a ciphertext of the OpenFHE evaluator");
}

CiphertextPtr wrap(OpenFheCt ct) {
    return std::make_shared<OpenFheCiphertext>(std::move(ct));
}

int limbs(const OpenFheCt& ct) {
    return static_cast<int>(ct->GetElements()[0].GetNumOfElements());
}

// OpenFHE leaves a product's rescaling to the next operation; we rescale at once, so that the rotations that follow work
// on fewer limbs.
CiphertextPtr rescaled(const Context& context, OpenFheCt ct) {
    while (ct->GetNoiseScaleDeg() > 1)
        context.openfhe()->GetScheme()->ModReduceInternalInPlace(ct, 1);
    return wrap(std::move(ct));
}

// OpenFHE keeps keys in process-wide maps by tag: a tag for every evaluator, so that two under the same keys live side
// by side.
std::string own_tag(const std::string& key_tag) {
    static std::atomic<unsigned> count{0};
    return key_tag + "/" + std::to_string(count++);
}

std::vector<double> copy(std::span<const double> values) {
    return {values.begin(), values.end()};
}

}  // namespace

OpenFheEvaluator::OpenFheEvaluator(std::shared_ptr<Context> context, std::string key_tag, KeyPolicy keys)
    : Evaluator(keys), context_(std::move(context)), tag_(own_tag(key_tag)) {}

OpenFheEvaluator::~OpenFheEvaluator() {
    KeyMaps::ClearEvalAutomorphismKeys(tag_);
    KeyMaps::ClearEvalMultKeys(tag_);
}

OpenFheKey OpenFheEvaluator::read_key(Bytes body, std::size_t limbs, const char* what) const {
    auto key   = read_evaluation_key(*context_, tag_, body);
    uint32_t n = 0;
    std::memcpy(&n, body.data() + sizeof n, sizeof n);  // the limb count, checked by the reader
    if (n < limbs)
        throw Error(ErrorKind::kBackend, std::string("the ") + what + " key has " + std::to_string(n) + " limbs, " +
                                             std::to_string(limbs) + " are needed");
    return key;
}

void OpenFheEvaluator::insert_automorphism_key(uint32_t index, OpenFheKey key) {
    auto map = std::make_shared<std::map<uint32_t, OpenFheKey>>();
    map->emplace(index, std::move(key));
    KeyMaps::InsertEvalAutomorphismKey(map, tag_);
}

void OpenFheEvaluator::add_relinearisation_key(Bytes body) {
    KeyMaps::InsertEvalMultKey({read_key(body, context_->q().size(), "relinearisation")}, tag_);
    has_relinearisation_ = true;
}

void OpenFheEvaluator::add_conjugation_key(Bytes body) {
    insert_automorphism_key(static_cast<uint32_t>(2 * context_->ring_dimension() - 1),
                            read_key(body, context_->q().size() - context_->params().cts_budget, "conjugation"));
    has_conjugation_ = true;
}

void OpenFheEvaluator::add_rotation_key(int rotation, Bytes body) {
    const int cyclic = static_cast<int>(positive_rotation(rotation, context_->ring_dimension() / 2));
    // Two rotations that are the same automorphism share a key; the second would silently replace a taller first.
    if (rotation_limbs_.contains(cyclic))
        throw Error(ErrorKind::kUsage, "rotation " + std::to_string(cyclic) + " has a key already");
    auto key   = read_evaluation_key(*context_, tag_, body);
    uint32_t n = 0;
    std::memcpy(&n, body.data() + sizeof n, sizeof n);  // the limb count, checked by the reader
    rotation_limbs_[cyclic] = static_cast<int>(n);
    insert_automorphism_key(context_->openfhe()->FindAutomorphismIndex(rotation), std::move(key));
}

void OpenFheEvaluator::add_encapsulation_keys(Bytes to_sparse, Bytes to_dense) {
    const auto m = static_cast<uint32_t>(2 * context_->ring_dimension());
    insert_automorphism_key(m - 4, read_encapsulation_key(*context_, tag_, to_sparse));
    insert_automorphism_key(m - 2, read_key(to_dense, context_->q().size(), "to_dense"));
    has_encapsulation_ = true;
}

void OpenFheEvaluator::prepare_bootstrap() {
    // OpenFHE would read past a key that is missing or too short, so look before.
    if (!has_relinearisation_ || !has_conjugation_ || !has_encapsulation_)
        throw Error(ErrorKind::kBackend, "bootstrapping needs the relinearisation, conjugation and encapsulation keys");
    for (const auto& [rotation, limbs] : context_->bootstrap_rotations())
        require_rotation(rotation, limbs);
    context_->prepare_bootstrap();
    bootstrap_ready_ = true;
}

void OpenFheEvaluator::require_rotation(int k, int limbs) const {
    const auto key = rotation_limbs_.find(static_cast<int>(positive_rotation(k, context_->ring_dimension() / 2)));
    if (key == rotation_limbs_.end())
        throw Error(ErrorKind::kBackend, "no key for rotation " + std::to_string(k));
    if (key->second < limbs)
        throw Error(ErrorKind::kBackend, "the key for rotation " + std::to_string(k) + " has " + std::to_string(key->second) +
                                             " limbs, " + std::to_string(limbs) + " are needed");
}

CiphertextPtr OpenFheEvaluator::read(Bytes body) const {
    return wrap(read_ciphertext(*context_, tag_, body));
}

std::string OpenFheEvaluator::write(const CiphertextPtr& x, int dropped) const {
    return write_ciphertext(*context_, get(x), dropped);
}

int OpenFheEvaluator::level(const CiphertextPtr& x) const {
    return limbs(get(x)) - 1;
}

CiphertextPtr OpenFheEvaluator::add(const CiphertextPtr& x, const CiphertextPtr& y) {
    return rescaled(*context_, context_->openfhe()->EvalAdd(get(x), get(y)));
}

CiphertextPtr OpenFheEvaluator::add_plain(const CiphertextPtr& x, std::span<const double> values) {
    check_period(values.size(), slots());
    const auto& ct = get(x);
    auto plain     = context_->openfhe()->MakeCKKSPackedPlaintext(copy(values), 1, ct->GetLevel(), nullptr, values.size());
    return wrap(context_->openfhe()->EvalAdd(ct, plain));
}

CiphertextPtr OpenFheEvaluator::multiply(const CiphertextPtr& x, const CiphertextPtr& y) {
    level_after(std::min(level(x), level(y)), 1, "product");
    return rescaled(*context_, context_->openfhe()->EvalMult(get(x), get(y)));
}

CiphertextPtr OpenFheEvaluator::multiply_accumulate(std::span<const CiphertextPtr> xs, std::span<const Diagonal> factors) {
    std::vector<std::size_t> terms;
    for (std::size_t t = 0; t < xs.size(); ++t)
        if (!factors[t].empty()) {
            check_period(factors[t].size(), slots());
            terms.push_back(t);
        }
    if (terms.empty())
        return nullptr;
    // Encoding costs more than multiplying, and OpenFHE encodes on one core: spread the terms over the cores.
    const auto& cc = context_->openfhe();
    constexpr std::size_t kParts = 16;
    std::vector<OpenFheCt> parts(std::min(terms.size(), kParts));
    parallel_for(parts.size(), [&](std::size_t p) {
        for (std::size_t i = p; i < terms.size(); i += parts.size()) {
            const auto& ct     = get(xs[terms[i]]);
            const auto& factor = factors[terms[i]];
            const auto plain   = cc->MakeCKKSPackedPlaintext(factor, 1, ct->GetLevel(), nullptr, factor.size());
            auto product       = cc->EvalMult(ct, plain);
            if (parts[p])
                cc->EvalAddInPlace(parts[p], product);
            else
                parts[p] = std::move(product);
        }
    });
    OpenFheCt sum = parts[0];
    for (std::size_t p = 1; p < parts.size(); ++p)
        cc->EvalAddInPlace(sum, parts[p]);
    return wrap(std::move(sum));
}

CiphertextPtr OpenFheEvaluator::rescale(const CiphertextPtr& x) {
    if (get(x)->GetNoiseScaleDeg() > 1)  // add() has rescaled sums already
        level_after(level(x), 1, "multiplication");
    return rescaled(*context_, get(x)->Clone());
}

CiphertextPtr OpenFheEvaluator::rotate(const CiphertextPtr& x, int k) {
    if (k == 0)
        return x;
    require_rotation(k, limbs(get(x)));
    return wrap(context_->openfhe()->EvalRotate(get(x), k));
}

std::vector<CiphertextPtr> OpenFheEvaluator::rotate_many(const CiphertextPtr& x, std::span<const int> ks) {
    const auto& ct = get(x);
    std::shared_ptr<std::vector<Poly>> digits;
    std::vector<CiphertextPtr> out;
    for (int k : ks) {
        if (k == 0) {
            out.push_back(x);
            continue;
        }
        require_rotation(k, limbs(ct));
        if (!digits)
            digits = context_->openfhe()->EvalFastRotationPrecompute(ct);
        out.push_back(wrap(context_->openfhe()->EvalFastRotation(ct, k, 2 * context_->ring_dimension(), digits)));
    }
    return out;
}

CiphertextPtr OpenFheEvaluator::chebyshev(const CiphertextPtr& x, std::span<const double> coefficients) {
    const int left = level_after(level(x), levels().chebyshev_depth(static_cast<int>(coefficients.size()) - 1), "polynomial");
    auto c = copy(coefficients);
    c[0] *= 2;  // OpenFHE's series starts with c_0 / 2
    while (c.size() > 2 && c.back() == 0)  // OpenFHE spends a level too many on six coefficients that end in zero
        c.pop_back();
    const auto y = rescaled(*context_, context_->openfhe()->EvalChebyshevSeries(get(x), c, -1, 1));
    return drop_to(y, left);
}

CiphertextPtr OpenFheEvaluator::bootstrap(const CiphertextPtr& x) {
    check_bootstrap(level(x), levels());
    if (!bootstrap_ready_)
        throw Error(ErrorKind::kBackend, "bootstrapping was not prepared");
    // There OpenFHE returns its input, at whatever level it is.
    if (level(x) > levels().after_bootstrap)
        return drop_to(x, levels().after_bootstrap);
    auto ct = get(x)->Clone();
    ct->SetSlots(slots());
    return rescaled(*context_, context_->openfhe()->EvalBootstrap(ct));
}

CiphertextPtr OpenFheEvaluator::drop_to(const CiphertextPtr& x, int target) {
    const int from = level(x);
    check_drop(from, target);
    if (from == target)
        return x;
    // Every level has a scale of its own: drop all but one limb, then reach it by a multiplication and a rescaling.
    const auto& cp = context_->crypto_parameters();
    const auto& cc = context_->openfhe();
    auto ct        = get(x)->Clone();
    cc->GetScheme()->LevelReduceInternalInPlace(ct, from - target - 1);
    const double scale = ct->GetScalingFactor();
    const auto dropped = cp.GetElementParams()->GetParams()[target + 1]->GetModulus().ConvertToDouble();
    const double goal  = cp.GetScalingFactorReal(levels().top - target);
    // EvalMult encodes the constant at the scale of the ciphertext's level, which is that of `scale` or close to it.
    const double encoded = cp.GetScalingFactorReal(levels().top - target - 1);
    cc->EvalMultInPlace(ct, goal / scale * dropped / encoded);
    cc->GetScheme()->ModReduceInternalInPlace(ct, 1);
    ct->SetScalingFactor(goal);
    return wrap(std::move(ct));
}

}  // namespace fheinfer
