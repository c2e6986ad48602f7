// Diagonals of a linear map as plaintext polynomials, encoded as far as memory allows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/linear_map.h"
#include "ckks/chain.h"
#include "ring/poly.h"

namespace fheinfer::ckks {

// What is kept of the diagonals of a map between evaluations.
enum class Tier {
    kStreamed,      // nothing: they are encoded part by part when they are used
    kCoefficients,  // integer coefficients: saves writing the diagonals and the complex Fourier transform
    kEncoded,       // residues in evaluation form, for one height: saves the transforms of every limb as well
};

// What diagonals are encoded for: ciphertexts of these rows, with so many special primes beside them where the map stays
// modulo QP, and the scale of the plaintexts.
struct Target {
    Rows rows;
    std::size_t specials = 0;
    double scale         = 0;

    bool operator==(const Target& other) const {
        return rows.first == other.rows.first && rows.limbs == other.rows.limbs && specials == other.specials && scale == other.scale;
    }
    std::size_t all() const {
        return rows.limbs + specials;
    }
};

// The polynomial of one diagonal in the subring it lives in, before any prime: size() coefficients.
//
// One with real slots is its own mirror image: c_(size - i) = -c_i, and the values of its transform at positions i and
// size - 1 - i are equal. Where rounding has left that exact, as it does for coefficients of 32 bits and scales of 25, half of
// the coefficients are kept and half of the values are computed; the bits are those of the whole.
class Coefficients {
public:
    Coefficients() = default;
    explicit Coefficients(std::span<const int64_t> c);

    bool empty() const {
        return size_ == 0;
    }
    bool mirrored() const {
        return !half_.empty();
    }
    std::size_t size() const {
        return size_;
    }
    // Of a row in evaluation form: size(), or half of it where mirrored.
    std::size_t values() const {
        return mirrored() ? size_ / 2 : size_;
    }
    std::size_t bytes() const {
        return half_.size() * sizeof(int32_t) + whole_.size() * sizeof(int64_t);
    }
    // values() residues in evaluation form modulo prime `prime` of the chain; `out` is 64-byte aligned.
    void evaluate(const Chain& chain, std::size_t prime, uint64_t* out) const;

private:
    std::size_t size_ = 0;
    std::vector<int32_t> half_;   // c_0 .. c_(size / 2)
    std::vector<int64_t> whole_;  // or all of them
};

// Which diagonals of a map, by LinearMap::index: `terms` that follow one another in each of `sums` sums of giant steps, whose
// places are `stride` apart.
struct Window {
    std::size_t first = 0, terms = 0, sums = 1, stride = 0;

    static Window all(const LinearMap& map) {
        return {0, map.diagonals(), 1, map.diagonals()};
    }
    std::size_t count() const {
        return sums * terms;
    }
    std::size_t index(std::size_t place) const {
        return first + place / terms * stride + place % terms;
    }
    std::size_t place(std::size_t index) const {
        return (index - first) / stride * terms + (index - first) % stride;
    }
};

// A window of the diagonals of a map, encoded; not changed afterwards, so threads and evaluators may share it. Independent of
// any key.
class EncodedDiagonals {
public:
    // tier: kCoefficients or kEncoded. On all threads.
    EncodedDiagonals(const Chain& chain, const LinearMap& map, const Target& target, Tier tier, const Window& window);

    bool present(std::size_t index) const {
        return sizes_[window_.place(index)].size != 0;
    }
    bool mirrored(std::size_t index) const {
        return sizes_[window_.place(index)].mirrored;
    }
    // Words of a row.
    std::size_t values(std::size_t index) const {
        return sizes_[window_.place(index)].size / (mirrored(index) ? 2 : 1);
    }
    // Of the first diagonal that is present.
    std::size_t typical_values() const;
    bool encoded() const {
        return tier_ == Tier::kEncoded;
    }
    // Row `row` of the target in evaluation form: kept, or made in `scratch` (values() words, 64-byte aligned).
    const uint64_t* row(const Chain& chain, std::size_t index, std::size_t row, uint64_t* scratch) const;
    std::size_t bytes() const;

private:
    struct Size {
        std::size_t size = 0;
        bool mirrored    = false;
    };
    Target target_;
    Tier tier_;
    Window window_;
    std::vector<Size> sizes_;
    std::vector<Coefficients> coefficients_;
    std::vector<ring::Poly> rows_;
};

}  // namespace fheinfer::ckks
