// What bindings.cpp adds to the module for codes under one scale per group.
#pragma once
#include <nanobind/nanobind.h>

namespace fewbits {

void bind_grouped(nanobind::module_& m);

}  // namespace fewbits
