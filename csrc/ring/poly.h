// A polynomial as residues: `limbs` rows of n words, contiguous and 64-byte aligned. Which prime a row belongs to is known
// to whoever holds it; the first row is that of prime `base`. Not initialised when made; or a view of rows in a mapped file, which are not written to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fheinfer::ring {

class Poly {
public:
    Poly() = default;
    Poly(std::size_t limbs, std::size_t n, std::size_t base = 0) : limbs_(limbs), n_(n), base_(base) {
        if (limbs == 0)
            return;
        const std::size_t bytes = limbs * n * sizeof(uint64_t);
        words_.reset(static_cast<uint64_t*>(std::aligned_alloc(64, bytes)));
        if (!words_)
            throw std::bad_alloc();
#if defined(__linux__)
        // What lies on whole large pages may use them: a row then needs one entry of the page table and not 128.
        const auto start = (reinterpret_cast<std::uintptr_t>(words_.get()) + kLargePage - 1) / kLargePage * kLargePage;
        const auto end   = (reinterpret_cast<std::uintptr_t>(words_.get()) + bytes) / kLargePage * kLargePage;
        if (start < end)
            madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#endif
    }
    // Rows of someone else, who keeps them for as long as this lives.
    static Poly view(const uint64_t* words, std::size_t limbs, std::size_t n) {
        Poly out;
        out.limbs_ = limbs;
        out.n_     = n;
        out.words_ = {const_cast<uint64_t*>(words), [](uint64_t*) {}};
        return out;
    }
    // A copy of the first `limbs` rows.
    Poly first(std::size_t limbs) const {
        Poly out(limbs, n_, base_);
        std::memcpy(out.words_.get(), words_.get(), limbs * n_ * sizeof(uint64_t));
        return out;
    }

    uint64_t* operator[](std::size_t limb) {
        return words_.get() + limb * n_;
    }
    const uint64_t* operator[](std::size_t limb) const {
        return words_.get() + limb * n_;
    }
    std::size_t limbs() const {
        return limbs_;
    }
    std::size_t n() const {
        return n_;
    }
    std::size_t base() const {
        return base_;
    }
    // The row of a prime, of those that follow one another from `base` on.
    const uint64_t* of(std::size_t prime) const {
        return (*this)[prime - base_];
    }

private:
    static constexpr std::size_t kLargePage = std::size_t{2} << 20;
    static void free(uint64_t* p) {
        std::free(p);
    }
    std::size_t limbs_ = 0, n_ = 0, base_ = 0;
    std::unique_ptr<uint64_t[], void (*)(uint64_t*)> words_{nullptr, free};
};

}  // namespace fheinfer::ring
