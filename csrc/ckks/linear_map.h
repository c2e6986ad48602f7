// The engine for linear maps on ciphertexts (base/linear_map.h): convolutions, linear layers, CoeffToSlot, SlotToCoeff.
#pragma once

#include <span>
#include <vector>

#include "base/key_policy.h"
#include "ckks/ciphertext.h"
#include "ckks/diagonals.h"

namespace fheinfer::ckks {

// y_j = sum_i M_ji x_i, each rescaled once: one level lower. The xs are of one height and scale.
//
// Baby steps of an input are made once for all outputs; giant steps run once on the sum over the inputs. Sums are formed limb
// by limb: of a few diagonals at a time, encoded or made on the spot from their coefficients, while they are in the cache. What
// it holds at once keeps to working_limit() where it can (schedule.h).
// `kept` has all diagonals of the map, for the same target; null to encode them part by part.
std::vector<Ciphertext> apply(const Chain& chain, const Keys& keys, KeyPolicy policy, const LinearMap& map, const Target& target,
                              const EncodedDiagonals* kept, std::span<const Ciphertext* const> xs);

}  // namespace fheinfer::ckks
