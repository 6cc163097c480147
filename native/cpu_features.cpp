// What this machine's processor can do, asked once.
#include "fewbits/kernels.h"

namespace fewbits {

CpuFeatures cpu_features() {
    CpuFeatures found{false, false, false};
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool half = __builtin_cpu_supports("f16c");
    found.avx2 = half && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    found.avx512 = found.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__)
    found.neon = true;  // part of every 64-bit Arm processor
#endif
    return found;
}

}  // namespace fewbits
