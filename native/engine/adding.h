// Sums of codes, as residual connections have them.
#pragma once
#include <cstdint>

#include "fewbits/whole.h"

namespace fewbits {

void add_codes(const WholeKernels& kernels, const uint8_t* one, const uint8_t* other, int64_t count, const Addition& how, uint8_t* codes, int threads);

}  // namespace fewbits
