// Objects in OpenFHE's own binary form, for people who want to read them with OpenFHE itself.
#pragma once

#include <string>

#include "crypto/keys.h"

namespace fheinfer {

std::string export_context(const Context& context);
std::string export_public_key(const ClientKeys& keys);
std::string export_secret_key(const ClientKeys& keys);
std::string export_ciphertext(const Context& context, const std::string& key_tag, Bytes body);

}  // namespace fheinfer
