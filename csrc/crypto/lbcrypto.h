// The only place that includes OpenFHE. omp.h comes first: OpenFHE's headers declare OpenMP symbols of their own.
#pragma once

#include <omp.h>

#include <openfhe.h>

namespace fheinfer {

using Poly       = lbcrypto::DCRTPoly;
using LimbPoly   = Poly::PolyType;
using OpenFheKey = lbcrypto::EvalKey<Poly>;
using OpenFheCt  = lbcrypto::Ciphertext<Poly>;

}  // namespace fheinfer
