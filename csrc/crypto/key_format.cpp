#include "crypto/key_format.h"

#include <cstring>

#include "base/error.h"
#include "base/parallel.h"
#include "ring/pointwise.h"

namespace fheinfer {

namespace {

// Counts, seed, and zeros, so that rows which are aligned in a file are so in memory.
constexpr std::size_t kHeader = 64;

void append(std::string& out, std::size_t v) {
    const auto u = static_cast<uint32_t>(v);
    out.append(reinterpret_cast<const char*>(&u), sizeof u);
}

// A key whose halves stand in `body`, of residues that are yet to be checked, and whose uniform halves are yet to be made.
struct Unread {
    ckks::SwitchingKey key;
    ckks::Seed seed;
};

Unread parse(const ckks::Chain& chain, std::span<const std::byte> body) {
    uint32_t counts[3];
    if (body.size() < kHeader)
        throw Error(ErrorKind::kCorrupt, "a body ends before its header does");
    std::memcpy(counts, body.data(), sizeof counts);
    const auto [digits, limbs, specials] = counts;
    if (limbs < 1 || limbs > chain.q_count() || specials < 1 || specials > chain.special_count() || digits < 1 ||
        (digits != 1 && digits != chain.digits(limbs)))
        throw Error(ErrorKind::kCorrupt, "a switching key whose counts contradict each other");
    const std::size_t rows = std::size_t{limbs} + specials, bytes = rows * chain.n() * sizeof(uint64_t);
    if (body.size() != kHeader + digits * bytes)
        throw Error(ErrorKind::kCorrupt, "a body of the wrong length");
    if (reinterpret_cast<std::uintptr_t>(body.data()) % alignof(uint64_t) != 0)
        throw Error(ErrorKind::kUsage, "a switching key has to stand at a multiple of 8 bytes in memory");
    Unread out{{limbs, specials, {}, {}}, {}};
    std::memcpy(out.seed.data(), body.data() + sizeof counts, out.seed.size());
    for (uint32_t j = 0; j < digits; ++j)
        out.key.b.push_back(
            ckks::Poly::view(reinterpret_cast<const uint64_t*>(body.data() + kHeader + j * bytes), rows, chain.n()));
    ckks::reserve_uniform(chain, out.key);
    return out;
}

}  // namespace

std::string write_switching_key(const ckks::SwitchingKey& key, const ckks::Seed& seed) {
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

std::vector<ckks::SwitchingKey> read_switching_keys(const ckks::Chain& chain, std::span<const std::span<const std::byte>> bodies) {
    struct Row {
        std::size_t key, digit, row;
    };
    std::vector<Unread> unread;
    std::vector<Row> rows;
    for (const auto& body : bodies) {
        const auto& key = unread.emplace_back(parse(chain, body)).key;
        for (std::size_t digit = 0; digit < key.b.size(); ++digit)
            for (std::size_t row = 0; row < key.limbs + key.specials; ++row)
                rows.push_back({unread.size() - 1, digit, row});
    }
    parallel_for(rows.size(), [&](std::size_t i) {
        const auto [k, digit, row] = rows[i];
        auto& [key, seed]          = unread[k];
        if (!ring::all_below(key.b[digit][row], chain.n(), chain.modulus(chain.prime(row, key.limbs))))
            throw Error(ErrorKind::kCorrupt, "a body holds a residue that is not below its prime");
        ckks::expand_row(chain, key, seed, digit, row);
    });
    std::vector<ckks::SwitchingKey> out;
    for (auto& [key, seed] : unread)
        out.push_back(std::move(key));
    return out;
}

std::size_t switching_key_bytes(const ckks::Chain& chain, std::size_t limbs) {
    const std::size_t primes = chain.sprout_count() + limbs;
    return kHeader + chain.digits(primes) * (primes + chain.specials_for(primes)) * chain.n() * sizeof(uint64_t);
}

}  // namespace fheinfer
