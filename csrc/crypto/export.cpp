#include "crypto/export.h"

#include <sstream>

// Registers the types with cereal; only this file needs it.
#include "ciphertext-ser.h"
#include "cryptocontext-ser.h"
#include "key/key-ser.h"
#include "scheme/ckksrns/ckksrns-ser.h"

namespace fheinfer {

namespace {

template <typename T>
std::string binary(const T& object) {
    std::ostringstream out;
    lbcrypto::Serial::Serialize(object, out, lbcrypto::SerType::BINARY);
    return out.str();
}

}  // namespace

std::string export_context(const Context& context) {
    return binary(context.openfhe());
}

std::string export_public_key(const ClientKeys& keys) {
    return binary(keys.openfhe_public());
}

std::string export_secret_key(const ClientKeys& keys) {
    return binary(keys.openfhe_secret());
}

std::string export_ciphertext(const Context& context, const std::string& key_tag, Bytes body) {
    return binary(read_ciphertext(context, key_tag, body));
}

}  // namespace fheinfer
