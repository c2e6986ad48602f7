#include "crypto/serial.h"

#include <bit>
#include <cstring>

#include "base/error.h"

namespace fheinfer {

using namespace lbcrypto;

namespace {

static_assert(sizeof(NativeInteger) == sizeof(uint64_t), "residues are copied as 64-bit words");
static_assert(std::endian::native == std::endian::little, "bodies are little-endian");

class Writer {
public:
    explicit Writer(std::size_t size) {
        out_.reserve(size);
    }
    void count(std::size_t v) {
        const auto u = static_cast<uint32_t>(v);
        out_.append(reinterpret_cast<const char*>(&u), sizeof u);
    }
    void limb(const LimbPoly& poly) {
        const auto& values = poly.GetValues();
        out_.append(reinterpret_cast<const char*>(&values[0]), values.GetLength() * sizeof(uint64_t));
    }
    std::string take() {
        return std::move(out_);
    }

private:
    std::string out_;
};

class Reader {
public:
    explicit Reader(Bytes bytes) : rest_(bytes) {}

    uint32_t count(uint32_t max, const char* what) {
        uint32_t v = 0;
        if (rest_.size() < sizeof v)
            throw Error(ErrorKind::kCorrupt, "a body ends before its header does");
        std::memcpy(&v, rest_.data(), sizeof v);
        rest_ = rest_.subspan(sizeof v);
        if (v < 1 || v > max)
            throw Error(ErrorKind::kCorrupt, "a body claims " + std::to_string(v) + " " + what);
        return v;
    }
    void expect_limbs(std::size_t limbs, std::size_t n) const {
        if (rest_.size() != limbs * n * sizeof(uint64_t))
            throw Error(ErrorKind::kCorrupt, "a body of the wrong length");
    }
    // Fills `poly`; throws unless every residue is below the prime.
    void limb(LimbPoly& poly) {
        const auto n     = poly.GetParams()->GetRingDimension();
        const auto prime = poly.GetParams()->GetModulus();
        NativeVector values(n, prime);
        auto* words = reinterpret_cast<uint64_t*>(&values[0]);
        std::memcpy(words, rest_.data(), n * sizeof(uint64_t));
        const uint64_t q = prime.ConvertToInt();
        bool ok          = true;
        for (std::size_t i = 0; i < n; ++i)
            ok &= words[i] < q;
        if (!ok)
            throw Error(ErrorKind::kCorrupt, "a body holds a residue that is not below its prime");
        poly.SetValues(std::move(values), Format::EVALUATION);
        rest_ = rest_.subspan(n * sizeof(uint64_t));
    }

private:
    Bytes rest_;
};

// The sampler returns the first of these up to OpenFHE 1.4, the second from 1.5 on.
[[maybe_unused]] int64_t* words(const std::shared_ptr<int64_t>& drawn) {
    return drawn.get();
}
[[maybe_unused]] int64_t* words(std::vector<int64_t>& drawn) {
    return drawn.data();
}

std::shared_ptr<Poly::Params> first_limbs(const Context& context, std::size_t limbs) {
    const auto& all = context.crypto_parameters().GetElementParams()->GetParams();
    std::vector<NativeInteger> moduli, roots;
    for (std::size_t i = 0; i < limbs; ++i) {
        moduli.push_back(all[i]->GetModulus());
        roots.push_back(all[i]->GetRootOfUnity());
    }
    return std::make_shared<Poly::Params>(2 * context.ring_dimension(), moduli, roots);
}

std::size_t digits_for(const Context& context, int limbs) {
    const int per_digit = static_cast<int>(context.crypto_parameters().GetNumPerPartQ());
    return (limbs + per_digit - 1) / per_digit;
}

OpenFheKey make_key(const Context& context, const std::string& tag, std::vector<Poly> a, std::vector<Poly> b) {
    auto key = std::make_shared<EvalKeyRelinImpl<Poly>>(context.openfhe());
    key->SetAVector(std::move(a));
    key->SetBVector(std::move(b));
    key->SetKeyTag(tag);
    return key;
}

}  // namespace

SecretVector<int64_t> draw(const DiscreteGaussianGeneratorImpl<NativeVector>& gaussian, std::size_t n) {
    auto drawn    = gaussian.GenerateIntVector(static_cast<uint32_t>(n));
    int64_t* from = words(drawn);
    SecretVector<int64_t> out(from, from + n);
    wipe(from, n * sizeof(int64_t));
    return out;
}

void wipe(const LimbPoly& limb) {
    if (!limb.IsEmpty())
        wipe(const_cast<NativeInteger*>(&limb.GetValues()[0]), limb.GetLength() * sizeof(uint64_t));
}

void wipe(const Poly& poly) {
    for (const auto& limb : poly.GetAllElements())
        wipe(limb);
}

void wipe(const Plaintext& plain) {
    const auto& slots = plain->GetCKKSPackedValue();
    wipe(const_cast<std::complex<double>*>(slots.data()), slots.size() * sizeof(std::complex<double>));
    wipe(plain->GetElement<Poly>());
}

SecretVector<int64_t> draw_ternary(std::size_t n) {
    const NativeInteger modulus(3);
    auto drawn = TernaryUniformGeneratorImpl<NativeVector>().GenerateVector(static_cast<uint32_t>(n), modulus);
    SecretVector<int64_t> out(n);
    for (std::size_t i = 0; i < n; ++i) {
        const auto v = static_cast<int64_t>(drawn[i].ConvertToInt());
        out[i]       = v == 2 ? -1 : v;
    }
    wipe(&drawn[0], n * sizeof(NativeInteger));
    return out;
}

Poly to_openfhe(const Context& context, const ckks::Poly& x, std::size_t limbs) {
    const std::size_t n = context.ring_dimension(), first = context.chain()->sprout_count();
    Poly out(first_limbs(context, limbs), Format::EVALUATION);
    for (std::size_t i = 0; i < limbs; ++i) {
        NativeVector values(n, out.GetElementAtIndex(i).GetModulus());
        std::memcpy(reinterpret_cast<uint64_t*>(&values[0]), x.of(first + i), n * sizeof(uint64_t));
        out.GetAllElements()[i].SetValues(std::move(values), Format::EVALUATION);
    }
    return out;
}

std::string write_ciphertext(const Context& context, const OpenFheCt& ciphertext, int dropped) {
    const auto& polys = ciphertext->GetElements();
    if (ciphertext->GetNoiseScaleDeg() != 1 || polys.size() != 2)
        throw Error(ErrorKind::kUsage, "only a rescaled, relinearised ciphertext can be written");
    const std::size_t n = context.ring_dimension(), limbs = polys[0].GetNumOfElements();
    const std::size_t base = context.chain()->sprout_count();
    ckks::Ciphertext x{ckks::Poly(limbs, n, base), ckks::Poly(limbs, n, base), 0};
    for (std::size_t i = 0; i < limbs; ++i) {
        std::memcpy(x.c0[i], &polys[0].GetElementAtIndex(i).GetValues()[0], n * sizeof(uint64_t));
        std::memcpy(x.c1[i], &polys[1].GetElementAtIndex(i).GetValues()[0], n * sizeof(uint64_t));
    }
    return ckks::write(*context.chain(), x, dropped);
}

OpenFheCt read_ciphertext(const Context& context, const std::string& key_tag, Bytes body) {
    const auto x      = ckks::read(*context.chain(), body);
    std::vector<Poly> polys{to_openfhe(context, x.c0, x.limbs()), to_openfhe(context, x.c1, x.limbs())};
    auto ct = std::make_shared<CiphertextImpl<Poly>>(context.openfhe(), key_tag, CKKS_PACKED_ENCODING);
    ct->SetElements(std::move(polys));
    ct->SetLevel(context.q().size() - x.limbs());
    ct->SetNoiseScaleDeg(1);
    ct->SetScalingFactor(context.scale(context.chain()->level(x.c0)));
    ct->SetSlots(context.params().slots);
    return ct;
}

std::size_t evaluation_key_bytes(const Context& context, int limbs) {
    return 3 * sizeof(uint32_t) +
           2 * digits_for(context, limbs) * (limbs + context.p().size()) * context.ring_dimension() * sizeof(uint64_t);
}

std::string write_evaluation_key(const Context& context, const OpenFheKey& key, int limbs) {
    if (limbs < 1 || limbs > static_cast<int>(context.q().size()))
        throw Error(ErrorKind::kUsage, "no evaluation key of " + std::to_string(limbs) + " limbs");
    const std::size_t digits = digits_for(context, limbs), specials = context.p().size(), all = context.q().size();
    Writer w(evaluation_key_bytes(context, limbs));
    w.count(digits);
    w.count(limbs);
    w.count(specials);
    for (std::size_t j = 0; j < digits; ++j) {
        for (const auto* half : {&key->GetBVector()[j], &key->GetAVector()[j]}) {
            for (int i = 0; i < limbs; ++i)
                w.limb(half->GetElementAtIndex(i));
            for (std::size_t i = 0; i < specials; ++i)
                w.limb(half->GetElementAtIndex(all + i));
        }
    }
    return w.take();
}

OpenFheKey read_evaluation_key(const Context& context, const std::string& key_tag, Bytes body) {
    const std::size_t specials = context.p().size(), all = context.q().size();
    Reader r(body);
    const auto digits = r.count(context.params().digits, "digits");
    const auto limbs  = r.count(static_cast<uint32_t>(all), "limbs");
    if (digits != digits_for(context, static_cast<int>(limbs)) || r.count(static_cast<uint32_t>(specials), "special primes") != specials)
        throw Error(ErrorKind::kCorrupt, "an evaluation key whose counts contradict each other");
    r.expect_limbs(2 * std::size_t{digits} * (limbs + specials), context.ring_dimension());
    const auto& params = context.crypto_parameters().GetParamsQP();
    std::vector<Poly> a, b;
    for (uint32_t j = 0; j < digits; ++j) {
        for (auto* halves : {&b, &a}) {
            Poly half(params, Format::EVALUATION);  // limbs that are not in the file stay without storage
            for (std::size_t i = 0; i < limbs; ++i)
                r.limb(half.GetAllElements()[i]);
            for (std::size_t i = 0; i < specials; ++i)
                r.limb(half.GetAllElements()[all + i]);
            halves->push_back(std::move(half));
        }
    }
    return make_key(context, key_tag, std::move(a), std::move(b));
}

std::string write_encapsulation_key(const OpenFheKey& key) {
    const std::size_t limbs = 2;
    Writer w(2 * sizeof(uint32_t) + 2 * limbs * key->GetBVector()[0].GetRingDimension() * sizeof(uint64_t));
    w.count(2);
    w.count(limbs);
    for (const auto* half : {&key->GetBVector()[0], &key->GetAVector()[0]})
        for (const auto& limb : half->GetAllElements())
            w.limb(limb);
    return w.take();
}

OpenFheKey read_encapsulation_key(const Context& context, const std::string& key_tag, Bytes body) {
    const auto& q = context.crypto_parameters().GetElementParams()->GetParams()[0];
    const auto& p = context.crypto_parameters().GetParamsP()->GetParams()[0];
    auto params   = std::make_shared<Poly::Params>(2 * context.ring_dimension(),
                                                 std::vector<NativeInteger>{q->GetModulus(), p->GetModulus()},
                                                 std::vector<NativeInteger>{q->GetRootOfUnity(), p->GetRootOfUnity()});
    Reader r(body);
    if (r.count(2, "polynomials") != 2 || r.count(2, "limbs") != 2)
        throw Error(ErrorKind::kCorrupt, "not an encapsulation key");
    r.expect_limbs(4, context.ring_dimension());
    std::vector<Poly> halves;
    for (int i = 0; i < 2; ++i) {
        Poly half(params, Format::EVALUATION);
        for (auto& limb : half.GetAllElements())
            r.limb(limb);
        halves.push_back(std::move(half));
    }
    return make_key(context, key_tag, {halves[1]}, {halves[0]});
}

SecretVector<char> write_secret(const Context& context, const PrivateKey<Poly>& key) {
    auto limb = key->GetPrivateElement().GetElementAtIndex(0);
    limb.SetFormat(Format::COEFFICIENT);
    const uint64_t q = context.q()[0];
    SecretVector<char> out(context.ring_dimension());
    for (std::size_t i = 0; i < out.size(); ++i) {
        const uint64_t v = limb[i].ConvertToInt();
        out[i]           = static_cast<char>(v == q - 1 ? -1 : static_cast<int>(v));
    }
    wipe(limb);
    return out;
}

PrivateKey<Poly> read_secret(const Context& context, const std::string& key_tag, Bytes body) {
    if (body.size() != context.ring_dimension())
        throw Error(ErrorKind::kCorrupt, "a secret key of the wrong length");
    SecretVector<int> s(body.size());
    for (std::size_t i = 0; i < s.size(); ++i) {
        s[i] = static_cast<signed char>(body[i]);
        if (s[i] < -1 || s[i] > 1)
            throw Error(ErrorKind::kCorrupt, "a secret key that is not ternary");
    }
    Poly poly(context.crypto_parameters().GetElementParams(), Format::COEFFICIENT, true);
    for (auto& limb : poly.GetAllElements()) {
        const auto q = limb.GetModulus();
        for (std::size_t i = 0; i < s.size(); ++i)
            limb[i] = s[i] < 0 ? q - NativeInteger(1) : NativeInteger(s[i]);
    }
    poly.SetFormat(Format::EVALUATION);
    auto key = std::make_shared<PrivateKeyImpl<Poly>>(context.openfhe());
    key->SetPrivateElement(std::move(poly));
    key->SetKeyTag(key_tag);
    return key;
}

}  // namespace fheinfer
