#include "crypto/context.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "base/error.h"
#include "ckks/bootstrap.h"

namespace fheinfer {

using namespace lbcrypto;

namespace {

// Vectorised modular arithmetic on 52-bit multipliers works on residues below 2^50 with lazy reduction.
constexpr int kMaxPrimeBits = 50;
constexpr int kMaxLogN      = 17;

CryptoContext<Poly> generate(const ParameterSet& p) {
    CCParams<CryptoContextCKKSRNS> c;
    // OpenFHE would judge a chain by special primes of 60 bits, which are not those in use: `make` judges by what is.
    c.SetSecurityLevel(HEStd_NotSet);
    c.SetSecretKeyDist(p.native ? UNIFORM_TERNARY : SPARSE_ENCAPSULATED);
    c.SetRingDim(1u << p.log_n);
    c.SetBatchSize(p.slots);
    c.SetFirstModSize(p.composite ? 2 * p.scale_bits : p.first_bits);
    c.SetScalingModSize(p.composite ? 2 * p.scale_bits : p.scale_bits);
    c.SetScalingTechnique(FLEXIBLEAUTO);
    c.SetKeySwitchTechnique(HYBRID);
    c.SetNumLargeDigits(p.digits);
    c.SetMultiplicativeDepth(p.composite ? p.top_level / 2 : p.top_level);
    auto cc = GenCryptoContext(c);
    for (auto feature : {PKE, KEYSWITCH, LEVELEDSHE, ADVANCEDSHE, FHE})
        cc->Enable(feature);
    return cc;
}

// The prime 1 modulo `order` that is nearest to `wanted` and none of `taken`.
uint64_t prime_near(double wanted, uint64_t order, const std::vector<NativeInteger>& taken) {
    const auto start  = static_cast<uint64_t>(wanted) / order * order + 1;
    const auto usable = [&](uint64_t v) {
        return std::find(taken.begin(), taken.end(), NativeInteger(v)) == taken.end() && MillerRabinPrimalityTest(NativeInteger(v));
    };
    uint64_t distance = 0;
    while (!usable(start + distance) && !usable(start - distance))
        distance += order;
    return usable(start + distance) ? start + distance : start - distance;
}

// EvalBootstrap takes a raised coefficient m + q_0 I for (m + q_0 I) * q_0 / (2^(first + first - scale bits) q_top): its
// CoeffToSlot matrices hold q_0 / 2^round(log2 q_0), and its scale at the top is q_top. Only where q_0^2 is
// 2^(first + first - scale bits) * q_top does I stay an integer; what is left of it comes back as noise. With the primes
// of OpenFHE's choice a bootstrap at scale 2^43 and N = 2^16 kept 6 bits (docs/explanation/precision.md). So q_0
// becomes the prime nearest to where it fits.
void fit_first_prime(CryptoParametersCKKSRNS& cp, int first_bits, int scale_bits) {
    std::vector<NativeInteger> primes, roots;
    for (const auto& limb : cp.GetElementParams()->GetParams()) {
        primes.push_back(limb->GetModulus());
        roots.push_back(limb->GetRootOfUnity());
    }
    const uint64_t order = cp.GetElementParams()->GetCyclotomicOrder();
    const double fit     = std::sqrt(std::ldexp(primes.back().ConvertToDouble(), first_bits - scale_bits + first_bits));
    primes[0] = prime_near(fit, order, {primes.begin() + 1, primes.end()});
    roots[0]  = RootOfUnity(static_cast<uint32_t>(order), primes[0]);
    cp.SetElementParams(std::make_shared<Poly::Params>(static_cast<uint32_t>(order), primes, roots));
}

// The primes q_0, p_1, ..., p_k of a composite-prime chain in place of OpenFHE's, the sprout prime r, and the scales of all
// levels. Two rescalings, by p_j / r and by r, take the scale s to s^4 r / p_j^2: from the top down, every p_j is the prime
// that brings it back to where it was.
ckks::Prime composite_primes(CryptoParametersCKKSRNS& cp, const ParameterSet& p, std::vector<double>& scales) {
    const uint64_t order = cp.GetElementParams()->GetCyclotomicOrder();
    const double first   = std::ldexp(1.0, p.scale_bits);
    const auto sprout    = prime_near(first * (1 - 1.0 / 64), order, {});  // p_j of about r^2 are to stay below 2^50
    std::vector<NativeInteger> primes{sprout};
    double scale = first;
    scales.assign(static_cast<std::size_t>(p.top_level) + 1, first);
    std::vector<NativeInteger> descending;
    for (int level = p.top_level; level >= 2; level -= 2) {
        const double r      = static_cast<double>(sprout);
        const uint64_t next = prime_near(std::sqrt(std::pow(scale, 4) * r / first), order, primes);
        primes.push_back(next);
        descending.push_back(next);
        scales[level - 1] = scale * scale * r / static_cast<double>(next);
        scale = scales[level - 2] = scales[level - 1] * scales[level - 1] / r;
    }
    primes = {prime_near(std::ldexp(1.0, p.first_bits) * (1 - 1.0 / 64), order, primes)};
    primes.insert(primes.end(), descending.rbegin(), descending.rend());
    std::vector<NativeInteger> roots;
    for (const auto& prime : primes)
        roots.push_back(RootOfUnity(static_cast<uint32_t>(order), prime));
    cp.SetElementParams(std::make_shared<Poly::Params>(static_cast<uint32_t>(order), primes, roots));
    return {sprout, RootOfUnity(static_cast<uint32_t>(order), NativeInteger(sprout)).ConvertToInt()};
}

// How OpenFHE collapses the layers of an FFT: `layers` in each level, `remainder` in one more.
struct CollapsedFft {
    struct Steps {
        int rotations, baby, giant;
    };
    int layers, remainder;
    Steps whole, rest;
};

// OpenFHE 1.4 returns a vector, 1.5 a structure of the same numbers.
template <typename Parameters>
CollapsedFft collapsed(const Parameters& p) {
    const auto number = [](auto v) { return static_cast<int>(v); };
    if constexpr (requires { p.layersCollapse; })
        return {number(p.layersCollapse),
                number(p.remCollapse),
                {number(p.numRotations), number(p.b), number(p.g)},
                {number(p.numRotationsRem), number(p.bRem), number(p.gRem)}};
    else
        return {number(p[1]), number(p[2]), {number(p[3]), number(p[4]), number(p[5])}, {number(p[6]), number(p[7]), number(p[8])}};
}

std::vector<uint64_t> moduli(const std::shared_ptr<Poly::Params>& params) {
    std::vector<uint64_t> out;
    for (const auto& limb : params->GetParams())
        out.push_back(limb->GetModulus().ConvertToInt());
    return out;
}

}  // namespace

int bootstrap_depth(int cts_budget, int stc_budget) {
    return cts_budget + stc_budget + 10;
}

CryptoParametersCKKSRNS& Context::crypto_parameters() const {
    return *std::dynamic_pointer_cast<CryptoParametersCKKSRNS>(cc_->GetCryptoParameters());
}

std::shared_ptr<Context> Context::create(const ParameterSet& params) {
    static std::mutex mutex;
    static std::map<ParameterSet, std::shared_ptr<Context>> contexts;
    const std::lock_guard lock(mutex);
    auto& context = contexts[params];
    if (!context)
        context = make(params);
    return context;
}

std::shared_ptr<Context> Context::make(const ParameterSet& p) {
    const bool bootstraps = p.cts_budget > 0 && p.stc_budget > 0;
    if (p.log_n < 4 || p.log_n > kMaxLogN || p.slots < 1 || p.slots > 1 << (p.log_n - 1) || p.top_level < 1 || p.digits < 1)
        throw Error(ErrorKind::kPlan, "impossible ring, slots, levels or digits");
    if (p.slots < 1LL << std::clamp(std::max(p.cts_budget, p.stc_budget), 0, 62))
        throw Error(ErrorKind::kPlan, "CoeffToSlot and SlotToCoeff take at most log2(slots) levels each");
    if (p.composite && (!p.native || bootstraps || p.top_level % 2))
        throw Error(ErrorKind::kPlan, "a composite-prime chain is for the native backend, has an even number of levels and"
                                      " no bootstrapping");
    if (std::max({p.first_bits, (p.composite ? 2 : 1) * p.scale_bits, p.special_bits}) > kMaxPrimeBits)
        throw Error(ErrorKind::kPlan, "every prime must be below 2^" + std::to_string(kMaxPrimeBits));
    // SlotToCoeff comes first in the native backend, and is paid for by the levels before a bootstrap.
    const int depth = p.native ? p.cts_budget + ckks::kEvalModDepth : bootstrap_depth(p.cts_budget, p.stc_budget);
    if (bootstraps && p.top_level <= depth)
        throw Error(ErrorKind::kPlan, "a bootstrap alone needs more than " + std::to_string(p.top_level) + " levels");

    std::shared_ptr<Context> self(new Context());
    self->params_ = p;
    try {
        self->cc_ = generate(p);
        auto& cp = self->crypto_parameters();
        if (!p.native)
            fit_first_prime(cp, p.first_bits, p.scale_bits);
        if (p.composite)
            self->sprout_ = composite_primes(cp, p, self->scales_);
        // Special primes default to 60 bits; those here are re-made at special_bits.
        cp.PrecomputeCRTTables(HYBRID, FLEXIBLEAUTO, cp.GetEncryptionTechnique(), cp.GetMultiplicationTechnique(), p.digits,
                               p.special_bits, 0);
        self->q_      = moduli(cp.GetElementParams());
        self->p_      = moduli(cp.GetParamsP());
        const BigInteger sprout(p.composite ? self->sprout_.p : 1);
        self->log_qp_ = static_cast<int>((cp.GetParamsQP()->GetModulus() * sprout).GetMSB());
    }
    catch (const OpenFHEException& e) {
        throw Error(ErrorKind::kPlan, "OpenFHE refuses these parameters: " + reason(e));
    }
    const auto needed = StdLatticeParm::FindRingDim(HEStd_ternary, HEStd_128_classic, self->log_qp_);
    if (!p.allow_insecure && needed > self->ring_dimension())
        throw Error(ErrorKind::kPlan, "log2(QP) = " + std::to_string(self->log_qp_) + " is below 128 bits at N = 2^" +
                                          std::to_string(p.log_n));
    for (const auto& primes : {self->q_, self->p_})
        for (uint64_t prime : primes)
            if (prime >> kMaxPrimeBits)
                throw Error(ErrorKind::kPlan, "a prime of this chain reaches 2^50; lower its size by one bit");

    // The sprout prime makes the first digit wider than OpenFHE, which chose the special primes, knows.
    if (p.composite && !self->chain()->covers_digits())
        throw Error(ErrorKind::kPlan, "the special primes are narrower than a digit; change their size by a bit or two");

    self->levels_.top             = p.top_level;
    self->levels_.after_bootstrap = bootstraps ? p.top_level - depth : 0;
    self->levels_.openfhe_series  = !p.native;
    self->levels_.composite       = p.composite;
    self->levels_.bootstrap_min   = p.native ? p.stc_budget : 1;  // one level goes into OpenFHE's scale adjustment
    return self;
}

const std::shared_ptr<const ckks::Chain>& Context::chain() const {
    std::call_once(chain_once_, [this] {
        const auto primes = [](const auto& params) {
            std::vector<ckks::Prime> out;
            for (const auto& limb : params->GetParams())
                out.push_back({limb->GetModulus().ConvertToInt(), limb->GetRootOfUnity().ConvertToInt()});
            return out;
        };
        const auto& cp = crypto_parameters();
        auto q         = primes(cp.GetElementParams());
        if (params_.composite)
            q.insert(q.begin(), sprout_);
        chain_ = std::make_shared<ckks::Chain>(ring_dimension(), q, primes(cp.GetParamsP()), params_.digits, params_.composite);
    });
    return chain_;
}

double Context::scale(int level) const {
    return params_.composite ? scales_[static_cast<std::size_t>(level)] : openfhe_scale(static_cast<std::size_t>(level) + 1);
}

double Context::openfhe_scale(std::size_t limbs) const {
    return crypto_parameters().GetScalingFactorReal(static_cast<uint32_t>(q_.size() - limbs));
}

uint32_t Context::correction_factor() const {
    return static_cast<uint32_t>(std::max(1, params_.first_bits - params_.scale_bits));
}

void Context::prepare_bootstrap() const {
    cc_->EvalBootstrapSetup({static_cast<uint32_t>(params_.cts_budget), static_cast<uint32_t>(params_.stc_budget)}, {0, 0},
                            params_.slots, correction_factor(), true);
}

std::map<int, int> Context::bootstrap_rotations() const {
    std::map<int, int> keys;
    if (levels_.after_bootstrap <= 0)
        return keys;
    const int quarter = static_cast<int>(ring_dimension() / 2);
    const int top     = params_.top_level + 1;
    // SlotToCoeff starts stc_budget levels above the level the bootstrap returns; its result is not rescaled yet.
    const int low = std::min(top, levels_.after_bootstrap + 1 + params_.stc_budget + 1);

    const auto use = [&keys](int k, int period, int limbs) {
        k = ((k % period) + period) % period;
        if (k != 0)
            keys[k] = std::max(keys[k], limbs);
    };
    // The rotations of one collapsed FFT (ePrint 2018/1043, as OpenFHE groups its layers): baby steps around zero and
    // giant steps, at the stride of each level.
    const auto transform = [&](int budget, bool to_slots, int limbs) {
        const auto fft = collapsed(GetCollapsedFFTParams(static_cast<uint32_t>(params_.slots), static_cast<uint32_t>(budget), 0));
        const int layers = fft.layers, remainder = fft.remainder;
        const auto level = [&](int stride, int rotations, int baby, int giant, int period) {
            for (int j = 0; j < giant; ++j)
                use((j + 1 - (rotations + 1) / 2) * stride, period, limbs);
            for (int i = 0; i < baby; ++i)
                use(giant * i * stride, quarter, limbs);
        };
        const int full   = remainder ? budget - 1 : budget;
        const int period = to_slots ? params_.slots : quarter;
        for (int s = 0; s < full; ++s)
            level(1 << (s * layers + (to_slots ? remainder : 0)), fft.whole.rotations, fft.whole.baby, fft.whole.giant,
                  period);
        if (remainder)
            level(to_slots ? 1 : 1 << (full * layers), fft.rest.rotations, fft.rest.baby, fft.rest.giant,
                  period);
    };
    transform(params_.cts_budget, true, top);
    transform(params_.stc_budget, false, low);
    for (int k = params_.slots; k < quarter; k *= 2)  // partial sums of sparse packing, on every limb
        use(k, quarter, top);
    return keys;
}

}  // namespace fheinfer
