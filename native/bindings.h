// What the files bind_*.cpp add to the module.
#pragma once
#include <nanobind/nanobind.h>

namespace fewbits {

void bind_engine(nanobind::module_& m);    // programs and what runs them
void bind_feedback(nanobind::module_& m);  // columns under error feedback
void bind_grouped(nanobind::module_& m);   // codes under one scale per group
void bind_layers(nanobind::module_& m);    // packed matrices of layers outside of programs
void bind_lines(nanobind::module_& m);     // codes under a scale and an offset of its own per group
void bind_products(nanobind::module_& m);  // products of columns
void bind_sampler(nanobind::module_& m);   // the choice of tokens
void bind_strings(nanobind::module_& m);   // strings in headers of GGUF files
void bind_tiles(nanobind::module_& m);     // parts of stored matrices as numbers
void bind_whole(nanobind::module_& m);     // layers in whole numbers

}  // namespace fewbits
