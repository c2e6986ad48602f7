#include "ckks/ciphertext_format.h"

#include <bit>
#include <cstring>

#include "base/error.h"

namespace fheinfer::ckks {

namespace {

static_assert(std::endian::native == std::endian::little, "bodies are little-endian");

int width(const Chain& chain, std::size_t row, int dropped) {
    return static_cast<int>(std::bit_width(chain.modulus(chain.sprout_count() + row).p)) - dropped;
}

std::size_t row_bytes(const Chain& chain, std::size_t row, int dropped) {
    return chain.n() * static_cast<std::size_t>(width(chain, row, dropped)) / 8;  // n is a multiple of 16
}

// n values of `bits` each. A value spans at most two words, since it has fewer than 58 bits.
void pack(char* out, const uint64_t* x, std::size_t n, int bits) {
    uint64_t word = 0;
    int filled    = 0;
    for (std::size_t i = 0; i < n; ++i) {
        word |= x[i] << filled;
        filled += bits;
        for (; filled >= 8; filled -= 8) {
            *out++ = static_cast<char>(word);
            word >>= 8;
        }
    }
}

void unpack(uint64_t* out, const std::byte* x, std::size_t n, int bits) {
    const uint64_t mask = (uint64_t{1} << bits) - 1;
    uint64_t word = 0;
    int filled    = 0;
    for (std::size_t i = 0; i < n; ++i) {
        for (; filled < bits; filled += 8)
            word |= static_cast<uint64_t>(*x++) << filled;
        out[i] = word & mask;
        word >>= bits;
        filled -= bits;
    }
}

}  // namespace

std::string write(const Chain& chain, const Ciphertext& x, int dropped, const std::optional<Seed>& seed) {
    const std::size_t n = chain.n(), limbs = x.limbs();
    if (x.c0.base() != chain.sprout_count())
        throw Error(ErrorKind::kUsage, "a ciphertext at an odd level of a composite-prime chain has no body");
    if (dropped < 0 || (dropped > 0 && (limbs != 1 || dropped >= width(chain, 0, 0))))
        throw Error(ErrorKind::kUsage, "only a ciphertext of one limb can be rounded, and not to nothing");
    const uint32_t header[] = {static_cast<uint32_t>(limbs), seed ? 1u : 2u, static_cast<uint32_t>(dropped)};
    std::string out(reinterpret_cast<const char*>(header), sizeof header);
    if (seed)
        out.append(reinterpret_cast<const char*>(seed->data()), seed->size());
    for (const Poly* half : {&x.c0, &x.c1}) {
        if (half == &x.c1 && seed)
            break;
        for (std::size_t row = 0; row < limbs; ++row) {
            const std::size_t at = out.size();
            out.resize(at + row_bytes(chain, row, dropped));
            if (dropped == 0) {
                pack(out.data() + at, (*half)[row], n, width(chain, row, 0));
                continue;
            }
            Poly rounded(1, n);
            std::memcpy(rounded[0], (*half)[row], n * sizeof(uint64_t));
            chain.ntt(chain.sprout_count() + row).inverse(rounded[0]);
            const uint64_t p = chain.modulus(chain.sprout_count() + row).p, unit = uint64_t{1} << dropped;
            for (std::size_t i = 0; i < n; ++i) {
                const uint64_t v = rounded[0][i] + unit / 2;
                rounded[0][i]    = (v >= p ? v - p : v) >> dropped;
            }
            pack(out.data() + at, rounded[0], n, width(chain, row, dropped));
        }
    }
    return out;
}

Ciphertext read(const Chain& chain, std::span<const std::byte> body) {
    uint32_t header[3];
    if (body.size() < sizeof header)
        throw Error(ErrorKind::kCorrupt, "a body ends before its header does");
    std::memcpy(header, body.data(), sizeof header);
    const auto [limbs, polys, dropped] = header;
    if (limbs < 1 || limbs > chain.q_count() - chain.sprout_count() || polys < 1 || polys > 2 ||
        (dropped > 0 && (limbs != 1 || dropped >= static_cast<uint32_t>(width(chain, 0, 0)))))
        throw Error(ErrorKind::kCorrupt, "a ciphertext whose counts are impossible");
    const std::size_t n = chain.n();
    std::size_t half    = 0;
    for (std::size_t row = 0; row < limbs; ++row)
        half += row_bytes(chain, row, static_cast<int>(dropped));
    Seed seed{};
    const std::size_t start = sizeof header + (polys == 1 ? seed.size() : 0);
    if (body.size() != start + polys * half)
        throw Error(ErrorKind::kCorrupt, "a body of the wrong length");
    const std::byte* next = body.data() + start;
    Ciphertext out{Poly(limbs, n, chain.sprout_count()), Poly(limbs, n, chain.sprout_count()), 0};
    for (uint32_t k = 0; k < polys; ++k)
        for (std::size_t row = 0; row < limbs; ++row) {
            const auto& m  = chain.modulus(chain.sprout_count() + row);
            uint64_t* into = (k == 0 ? out.c0 : out.c1)[row];
            unpack(into, next, n, width(chain, row, static_cast<int>(dropped)));
            next += row_bytes(chain, row, static_cast<int>(dropped));
            bool fits = true;
            for (std::size_t i = 0; i < n; ++i) {
                into[i] <<= dropped;
                fits &= into[i] < m.p;
            }
            if (!fits)
                throw Error(ErrorKind::kCorrupt, "a body holds a residue that is not below its prime");
            if (dropped > 0)
                chain.ntt(chain.sprout_count() + row).forward(into);
        }
    if (polys == 1) {
        std::memcpy(seed.data(), body.data() + sizeof header, seed.size());
        for (std::size_t row = 0; row < limbs; ++row)
            uniform(out.c1[row], n, chain.modulus(chain.sprout_count() + row), seed, 0, static_cast<uint32_t>(row));
    }
    return out;
}

}  // namespace fheinfer::ckks
