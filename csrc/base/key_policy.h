// Which rotation keys a server is given.
#pragma once

namespace fheinfer {

// kFast: a key for every rotation, so that all rotations of a ciphertext share one ModUp.
// kMinimal: keys of single steps; other rotations are made of those, each with a key switch of its own.
enum class KeyPolicy { kMinimal, kFast };

}  // namespace fheinfer
