// Weights of other containers, as the engine lays them out itself (packed/groups.h).
#pragma once
#include "fewbits/kernels.h"

namespace fewbits {

// To floats alone; nullptr where none has that name.
const Codec* group_codec_of(const char* name);

}  // namespace fewbits
