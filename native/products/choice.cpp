// Whether this processor multiplies bfloat16, asked once. FEWBITS_ISA, set to less than avx512, keeps it from that.
#include <cstring>

#include "fewbits/kernels.h"
#include "fewbits/products.h"

namespace fewbits {

#ifdef FEWBITS_HAVE_BFLOAT16
AddProducts products_with_avx512();
MultiplyBfloats bfloat_rows_with_avx512();
#endif

AddProducts products_of_bfloat16() {
#ifdef FEWBITS_HAVE_BFLOAT16
    if (!std::strcmp(kernels().isa, "avx512") && __builtin_cpu_supports("avx512bf16")) return products_with_avx512();
#endif
    return nullptr;
}

MultiplyBfloats products_of_bfloat_rows() {
#ifdef FEWBITS_HAVE_BFLOAT16
    if (__builtin_cpu_supports("avx512bf16")) return bfloat_rows_with_avx512();
#endif
    return nullptr;
}

}  // namespace fewbits
