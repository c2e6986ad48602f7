// Memory that runs out, at every allocation of a polynomial in turn: an exception, never the end of the process, and the
// same operation works afterwards. And memory of secrets, seen as it is given back. Linked with --wrap=aligned_alloc,
// --wrap=free.
#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "base/parallel.h"
#include "tests/client.h"

namespace {

std::atomic<long> allocations_left{-1};  // below 0: without end

// The memory that is looked at when it is freed, and what is found there.
const void* watched       = nullptr;
std::size_t watched_bytes = 0;
bool freed = false, wiped = false;

}  // namespace

extern "C" {

void* __real_aligned_alloc(std::size_t alignment, std::size_t size);

void* __wrap_aligned_alloc(std::size_t alignment, std::size_t size) {
    if (allocations_left >= 0 && allocations_left-- <= 0) {
        allocations_left = 0;
        return nullptr;
    }
    return __real_aligned_alloc(alignment, size);
}

void __real_free(void* p);

void __wrap_free(void* p) {
    if (p && p == watched) {
        freed = wiped = true;
        for (std::size_t i = 0; i < watched_bytes; ++i)
            wiped = wiped && static_cast<const unsigned char*>(p)[i] == 0;
        watched = nullptr;
    }
    __real_free(p);
}
}

using namespace fheinfer;
using namespace fheinfer::test;

namespace {

// Runs `operation` with one more allocation each time until it has enough of them.
template <typename F>
void exhaust(const F& operation, const std::string& what) {
    long refused = 0;
    for (bool done = false; !done; ++refused) {
        allocations_left = refused;
        try {
            operation();
            done = true;
        }
        catch (const std::bad_alloc&) {
        }
        allocations_left = -1;
    }
    check(refused > 1, what + ", which allocates nothing,");
    operation();
}

void test_operations() {
    const Bench b(KeyPolicy::kFast);
    auto e = b.evaluator();
    e.set_relinearisation_key(b.client.relinearisation_key(b.chain->q_count()));
    for (int k : {1, 3})
        e.add_rotation_key(k, b.client.automorphism_key(ring::rotation_exponent(kN, k), b.chain->q_count()));
    const auto x = b.encrypt(e, values(), 7), y = b.encrypt(e, values(), 6);
    exhaust([&] { e.add(x, y); }, "a sum");
    exhaust([&] { e.multiply(x, y); }, "a product");
    const int ks[] = {1, 3};
    exhaust([&] { e.rotate_many(x, ks); }, "rotations");
    exhaust([&] { e.drop_to(x, 2); }, "a lower ciphertext");
    const std::vector<double> series = {0.1, 0.2, 0.3, 0.4, 0.5, 0.1, 0.2, 0.1};
    exhaust([&] { e.chebyshev(x, series); }, "a series");
    exhaust([&] { b.client.relinearisation_key(3); }, "a key");
}

// What a body throws comes out, on any thread, and so does a scratch value that cannot be made.
void test_loop() {
    for (std::size_t at : {0, 1, 50, 99}) {
        std::atomic<int> bodies{0};
        try {
            parallel_for(100, [&](std::size_t i) {
                ++bodies;
                if (i == at)
                    throw std::out_of_range(std::to_string(i));
            });
            check(false, "a loop that throws");
        }
        catch (const std::out_of_range& error) {
            check(error.what() == std::to_string(at), "what a loop throws");
        }
    }
    const auto broken = []() -> int { throw std::bad_alloc(); };
    try {
        parallel_for(100, broken, [](std::size_t, int&) { check(false, "a body without scratch"); });
        check(false, "a loop without scratch");
    }
    catch (const std::bad_alloc&) {
    }
    std::atomic<std::size_t> sum{0};
    parallel_for(1000, [] { return std::size_t{1}; }, [&](std::size_t i, std::size_t& one) { sum += i * one; });
    check(sum == 499500, "a loop with scratch");
    parallel_for(0, [](std::size_t) { check(false, "a body of an empty loop"); });
}

// end() ends the life of what stands at `p`.
template <typename F>
void check_wiped(const void* p, std::size_t bytes, const F& end, const std::string& what) {
    watched       = p;
    watched_bytes = bytes;
    freed = wiped = false;
    end();
    check(freed && wiped, "the memory of " + what);
    watched = nullptr;
}

void test_secrets() {
    SecretVector<int64_t> values(100, -1);
    check_wiped(values.data(), 100 * sizeof(int64_t), [&] { values.resize(values.capacity() + 1); }, "a secret that grew");
    check_wiped(values.data(), values.size() * sizeof(int64_t), [&] { SecretVector<int64_t>().swap(values); }, "a secret");
    const auto chain = test::chain();
    auto poly        = std::make_unique<SecretPoly>(evaluate(*chain, small(1)));
    check_wiped((*poly)[0], poly->limbs() * kN * sizeof(uint64_t), [&] { poly.reset(); }, "residues of a secret");
    auto replaced = evaluate(*chain, small(1));
    check_wiped(replaced[0], replaced.limbs() * kN * sizeof(uint64_t), [&] { replaced = evaluate(*chain, small(1)); },
                "residues that were replaced");
    auto moved = std::move(replaced);
    check(moved.limbs() > 0 && replaced.limbs() == 0, "a move of residues");
}

}  // namespace

int main() {
    test_loop();
    test_secrets();
    test_operations();
    return failures != 0;
}
