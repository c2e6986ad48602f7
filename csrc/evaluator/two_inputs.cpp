#include "evaluator/two_inputs.h"

#include "base/error.h"
#include "evaluator/level_rules.h"

namespace fheinfer {

CiphertextPtr TwoInputs::join(const CiphertextPtr& x, const CiphertextPtr& y) {
    if (level(x) != level(y))
        throw Error(ErrorKind::kUsage, "two inputs of different levels in one ciphertext");
    const auto& chain = one_.chain();
    return one_.wrap(ckks::add(chain, NativeEvaluator::get(x), ckks::multiply_by_i(chain, NativeEvaluator::get(y))));
}

std::pair<ckks::Ciphertext, ckks::Ciphertext> TwoInputs::each(const ckks::Ciphertext& z) const {
    const auto& chain    = one_.chain();
    const auto conjugate = one_.conjugate(z);
    auto re              = ckks::add(chain, z, conjugate);
    auto im              = ckks::multiply_by_i(chain, ckks::subtract(chain, conjugate, z));
    re.scale = im.scale = 2 * z.scale;
    return {std::move(re), std::move(im)};
}

std::pair<CiphertextPtr, CiphertextPtr> TwoInputs::twice_each(const CiphertextPtr& z) {
    auto [re, im] = each(NativeEvaluator::get(z));
    re.scale = im.scale = NativeEvaluator::get(z).scale;
    return {one_.wrap(std::move(re)), one_.wrap(std::move(im))};
}

// i (x / i + v) + v
CiphertextPtr TwoInputs::add_plain(const CiphertextPtr& x, std::span<const double> values) {
    const auto& chain = one_.chain();
    auto turned       = NativeEvaluator::get(x).first(NativeEvaluator::get(x).limbs());
    for (int turn = 0; turn < 3; ++turn)
        turned = ckks::multiply_by_i(chain, turned);
    const auto sum = one_.add_plain(one_.wrap(std::move(turned)), values);
    return one_.add_plain(one_.wrap(ckks::multiply_by_i(chain, NativeEvaluator::get(sum))), values);
}

CiphertextPtr TwoInputs::multiply(const CiphertextPtr& x, const CiphertextPtr& y) {
    const int low = std::min(level(x), level(y));
    level_after(low, 1, "product");
    const auto& chain = one_.chain();
    const auto a      = each(NativeEvaluator::get(drop_to(x, low)));
    std::pair<ckks::Ciphertext, ckks::Ciphertext> other;
    if (x != y)
        other = each(NativeEvaluator::get(drop_to(y, low)));
    const auto& b = x == y ? a : other;
    auto product  = ckks::multiply(chain, a.first, b.first);
    ckks::add(chain, product, ckks::multiply_by_i(chain, ckks::multiply(chain, a.second, b.second)));
    return one_.relinearise(std::move(product));
}

CiphertextPtr TwoInputs::chebyshev(const CiphertextPtr& x, std::span<const double> coefficients) {
    auto [re, im] = each(NativeEvaluator::get(x));
    return join(one_.chebyshev(one_.wrap(std::move(re)), coefficients), one_.chebyshev(one_.wrap(std::move(im)), coefficients));
}

CiphertextPtr TwoInputs::bootstrap(const CiphertextPtr&) {
    throw Error(ErrorKind::kUsage, "a bootstrap takes one input, not two in real and imaginary parts");
}

}  // namespace fheinfer
