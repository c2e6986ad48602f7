#include "evaluator/two_pictures.h"

#include "base/error.h"
#include "evaluator/level_rules.h"

namespace fheinfer {

CiphertextPtr TwoPictures::join(const CiphertextPtr& x, const CiphertextPtr& y) {
    if (level(x) != level(y))
        throw Error(ErrorKind::kUsage, "two pictures of different levels in one ciphertext");
    const auto& chain = one_.chain();
    return one_.wrap(ckks::add(chain, NativeEvaluator::get(x), ckks::multiply_by_i(chain, NativeEvaluator::get(y))));
}

std::pair<ckks::Ciphertext, ckks::Ciphertext> TwoPictures::each(const ckks::Ciphertext& z) const {
    const auto& chain    = one_.chain();
    const auto conjugate = one_.conjugate(z);
    auto re              = ckks::add(chain, z, conjugate);
    auto im              = ckks::multiply_by_i(chain, ckks::subtract(chain, conjugate, z));
    re.scale = im.scale = 2 * z.scale;
    return {std::move(re), std::move(im)};
}

std::pair<CiphertextPtr, CiphertextPtr> TwoPictures::twice_each(const CiphertextPtr& z) {
    auto [re, im] = each(NativeEvaluator::get(z));
    re.scale = im.scale = NativeEvaluator::get(z).scale;
    return {one_.wrap(std::move(re)), one_.wrap(std::move(im))};
}

// i (x / i + v) + v
CiphertextPtr TwoPictures::add_plain(const CiphertextPtr& x, std::span<const double> values) {
    const auto& chain = one_.chain();
    auto turned       = NativeEvaluator::get(x).first(NativeEvaluator::get(x).limbs());
    for (int turn = 0; turn < 3; ++turn)
        turned = ckks::multiply_by_i(chain, turned);
    const auto sum = one_.add_plain(one_.wrap(std::move(turned)), values);
    return one_.add_plain(one_.wrap(ckks::multiply_by_i(chain, NativeEvaluator::get(sum))), values);
}

CiphertextPtr TwoPictures::multiply(const CiphertextPtr& x, const CiphertextPtr& y) {
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

CiphertextPtr TwoPictures::chebyshev(const CiphertextPtr& x, std::span<const double> coefficients) {
    auto [re, im] = each(NativeEvaluator::get(x));
    return join(one_.chebyshev(one_.wrap(std::move(re)), coefficients), one_.chebyshev(one_.wrap(std::move(im)), coefficients));
}

CiphertextPtr TwoPictures::bootstrap(const CiphertextPtr&) {
    throw Error(ErrorKind::kUsage, "a bootstrap takes one picture, not two in real and imaginary parts");
}

}  // namespace fheinfer
