// Makes the linear map of a layer from where its inputs and outputs stand in slots and from its weights.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/linear_map.h"
#include "kernels/steps.h"

namespace fheinfer {

// One side of a map: a tuple of ciphertexts whose slots repeat with `period`, a power of two. Place p of it is slot p % period of
// ciphertext p / period. With a rotation, each replica is rotated by so many slots against the one before it, a power of two below
// the period, and what repeats is period / rotation replicas; 0 for equal replicas.
struct Side {
    int ciphertexts    = 1;
    std::size_t period = 1, rotation = 0;

    std::size_t replicas() const {  // that differ
        return rotation ? period / rotation : 1;
    }
    std::size_t total() const {  // slots after which all repeats
        return period * replicas();
    }
};

// Products with one weight: input place + y * in_row + x * in_column goes to output place + y * out_row + x * out_column. They
// are on one diagonal where both strides are the same, and on one for each row or column where they are not.
struct Pattern {
    int rows = 1, columns = 1;
    int in_row = 0, in_column = 0, out_row = 0, out_column = 0;
};

// Collects weights and finds the rotations that join their places.
//
// A weight joins the slot it is read from to the slot it counts in; weights of one distance share a diagonal. Distances are
// split into baby steps and giant steps of the fewest key switches. Where the input has a longer period than the output, because it
// has more elements or rotated replicas, each part of a sum is formed in its own replica of the output and the replicas are added
// up by rotate-and-sum: so only distances within a period of the output are needed.
// Rotations depend on places alone, not on weights; diagonals that are all zero are omitted.
class MapBuilder {
public:
    // block: slots that a rotated replica moves as a whole; each pattern stays inside one block. shape_only: the map is to be
    // counted, not evaluated; weights are not read, none is taken for zero, and memory is a bit for each distance instead of 24
    // bytes for each weight. Throws Error(kPlan) for sides that cannot be.
    MapBuilder(Side in, Side out, std::size_t block = 1, bool shape_only = false);

    // Every output place with every input place of its group: `weights` is (outs.size(), ins.size() / groups), row-major, and output
    // o reads the inputs of group o * groups / outs.size(). A negative place is no place: its products are omitted.
    // With shape_only, weights may be empty. Throws Error(kPlan) for places beyond the sides.
    void add(const Pattern& pattern, std::span<const int64_t> outs, std::span<const int64_t> ins, std::span<const double> weights,
             int groups);

    // The map; the builder is empty afterwards.
    LinearMap finish();

    bool shape_only() const {
        return shape_only_;
    }

private:
    struct Term {
        double weight;
        uint32_t pattern;
        uint32_t sum;   // output ciphertext * inputs + input ciphertext
        int32_t from;   // slot that products are formed in, before giant steps
        int32_t distance;
    };
    // Where an output block takes an input block from.
    struct Source {
        int32_t part = 0, distance = -1;  // in blocks
    };

    void add_apart(const Pattern& pattern, bool rows, bool columns, std::span<const int64_t> outs, std::span<const int64_t> ins,
                   std::span<const double> weights, int groups);
    void join(uint32_t number, int64_t out, int64_t in, double weight);
    void put(const Term& term);
    // Calls f(sum, distance modulo `modulus()`) for each term, or with shape_only for each pair that there is.
    template <class F>
    void for_each(F&& f) const;
    // The map's steps, without diagonals, and where each distance is among them.
    LinearMap steps(std::vector<StepPlace>& places) const;
    std::size_t modulus() const;

    Side in_, out_;
    std::size_t block_, total_;
    bool rotated_, shape_only_;
    std::vector<Source> sources_;
    std::vector<Pattern> patterns_;
    std::vector<Term> terms_;
    std::vector<std::vector<uint64_t>> seen_;  // with shape_only: by sum, a bit for each distance; empty where there is none
};

}  // namespace fheinfer
