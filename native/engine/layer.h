// One packed matrix outside of a program: products with any number of tokens, in any number of threads, from any thread.
#pragma once
#include <functional>

#include "fewbits/kernels.h"
#include "memory.h"

namespace fewbits {

struct PackedType;
struct EngineKernels;
enum class Inputs : int;

class PackedLayer {
  public:
    // Panels of `stored` (rows, bytes per row), made by up to `threads` threads.
    PackedLayer(const KernelTable& table, const PackedType& type, int64_t rows, int64_t cols, const uint8_t* stored, int threads);

    int64_t rows() const { return rows_; }
    int64_t cols() const { return cols_; }
    int64_t bytes() const { return static_cast<int64_t>(panels_.size()); }
    // out (tokens, rows) = x (tokens, cols), as `how` rounds it, times the matrix; plus bias (rows) where there is one.
    // The numbers of a token depend on neither threads nor other tokens.
    void multiply(Inputs how, const float* x, int64_t tokens, const float* bias, float* out, int threads) const;

  private:
    void multiply_some(Inputs how, const float* x, int64_t tokens, const float* bias, float* out, int threads) const;
    void add_rows();

    const EngineKernels& kernels_;
    const PackedType& type_;
    const PackedType* rest_;  // of the same panels: what the type's table leaves out
    const int run_;           // groups that have one scale
    int64_t rows_, cols_, panel_bytes_;
    Memory panels_;
    Memory row_sums_;  // floats: what inputs that are all 1 give
};

// out (tokens, rows) = x (tokens, cols) by rows of plain numbers, as floats; plus bias where there is one.
void multiply_plain_rows(const EngineKernels& kernels, Number kind, const uint8_t* w, int64_t rows, int64_t cols, const float* x,
                         int64_t tokens, const float* bias, float* out, int threads);

}  // namespace fewbits
