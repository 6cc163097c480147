// Vocabularies in a GGUF header: the strings are found here, and decoded by whoever looks at them.
#pragma once
#include <nanobind/nanobind.h>

namespace fewbits {

void bind_strings(nanobind::module_& m);

}  // namespace fewbits
