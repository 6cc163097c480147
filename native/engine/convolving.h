// Convolutions and linear layers in whole numbers of 8 bits: some lines of pictures are copied with their padding, and what
// lies there is multiplied with packed weights where it lies.
#pragma once
#include <cstdint>

#include "fewbits/kernels.h"
#include "fewbits/whole.h"

namespace fewbits {

// Channels lie beside each other: x is (samples, height, width, channels), results (samples, out_height, out_width, rows). A
// linear layer is a picture of one position. Rows of weights are (kernel height, kernel width, channels of a group).
struct Geometry {
    int64_t samples, height, width, channels;
    int64_t rows, groups;
    int64_t kernel[2], stride[2], padding[2], dilation[2];  // down, across
    uint8_t zero;    // what padding is, as it is in x
    bool is_signed;  // whether x is int8

    int64_t out(int along, int64_t size) const {
        return (size + 2 * padding[along] - dilation[along] * (kernel[along] - 1) - 1) / stride[along] + 1;
    }
    int64_t out_height() const { return out(0, height); }
    int64_t out_width() const { return out(1, width); }
    int64_t group_channels() const { return channels / groups; }
    int64_t group_rows() const { return rows / groups; }
    int64_t positions() const { return out_height() * out_width(); }  // of a sample
    // Lines of the kernel lie in one piece where neither other groups nor points that are left out lie between its numbers.
    bool whole_lines() const { return groups == 1 && dilation[1] == 1; }
    int64_t pieces() const { return whole_lines() ? kernel[0] : kernel[0] * kernel[1]; }
    int64_t piece_cols() const { return whole_lines() ? kernel[1] * channels : group_channels(); }
    int64_t cols() const { return kernel[0] * kernel[1] * group_channels(); }
};

int64_t packed_bytes(const WholeKernels& kernels, const Geometry& g);
void pack_rows(const WholeKernels& kernels, const Geometry& g, const int8_t* w, uint8_t* packed);

// What has to be added to products of numbers as kernels take them, in units of the sum of a row's weights, so that they are
// products of x less `zero_point`.
int32_t shift_of(const WholeKernels& kernels, bool is_signed, int32_t zero_point);

// One of `codes` (with `how`) and `sums` is written; sums have the offsets of `how` in them.
struct Results {
    uint8_t* codes;
    int32_t* sums;
    Requantization how;
};
void convolve(const WholeKernels& kernels, const Geometry& g, const uint8_t* x, const uint8_t* packed, const Results& results, int threads);

}  // namespace fewbits
