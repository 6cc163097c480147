// What bindings.cpp adds to the module for error feedback.
#pragma once
#include <nanobind/nanobind.h>

namespace fewbits {

void bind_feedback(nanobind::module_& m);

}  // namespace fewbits
