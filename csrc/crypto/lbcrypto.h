// The only place that includes OpenFHE. omp.h comes first: OpenFHE's headers declare OpenMP symbols of their own.
#pragma once

#include <omp.h>

#include <openfhe.h>

#include <string>

namespace fheinfer {

using Poly       = lbcrypto::DCRTPoly;
using LimbPoly   = Poly::PolyType;
using OpenFheKey = lbcrypto::EvalKey<Poly>;
using OpenFheCt  = lbcrypto::Ciphertext<Poly>;

// What OpenFHE has to say, without the source file, line and function it puts in front.
inline std::string reason(const lbcrypto::OpenFHEException& error) {
    const std::string text = error.what();
    const auto start       = text.find("(): ");
    return start == std::string::npos ? text : text.substr(start + 4);
}

}  // namespace fheinfer
