// Scales and codes of formats with several fields, one at a time; sums as exact.lane_sum runs them.
#pragma once
#include <vector>

#include "fewbits/families.h"
#include "fewbits/scales.h"

namespace fewbits {
namespace {

// Sixteen lanes in turn, then their halves.
class LaneSum {
  public:
    void add(float x) { lanes_[next_++ % 16] += x; }
    float total() const {
        float sum[16];
        std::memcpy(sum, lanes_, sizeof sum);
        for (int half = 8; half; half /= 2)
            for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
        return sum[0];
    }

  private:
    float lanes_[16] = {};
    int next_ = 0;
};

inline int64_t code_row_bytes(int64_t cols, int bits) { return (cols * bits + 7) / 8; }

// Code `c` of a row; it never crosses more than one border between bytes.
inline int get_code(const uint8_t* row, int64_t c, int bits) {
    const int64_t at = c * bits;
    int found = row[at / 8] >> (at % 8);
    if (at % 8 + bits > 8) found |= row[at / 8 + 1] << (8 - at % 8);
    return found & ((1 << bits) - 1);
}

// Into bytes that were zero.
inline void put_code(uint8_t* row, int64_t c, int bits, int code) {
    const int64_t at = c * bits;
    row[at / 8] = static_cast<uint8_t>(row[at / 8] | code << (at % 8));
    if (at % 8 + bits > 8) row[at / 8 + 1] = static_cast<uint8_t>(row[at / 8 + 1] | code >> (8 - at % 8));
}

// The numbers of one scope, where they lie: rows of `width` numbers.
struct Place {
    int64_t first_row, rows, first_col, width, scale;
};

template <typename Body>
void for_scopes(const Slab& slab, Body body) {
    const int64_t down = slab.scope_rows ? slab.scope_rows : slab.rows, across = slab.span();
    int64_t scale = 0;
    for (int64_t r = 0; r < slab.rows; r += down)
        for (int64_t c = 0; c < slab.cols; c += across)
            body(Place{r, slab.rows - r < down ? slab.rows - r : down, c, across, scale++});
}

inline std::vector<float> numbers_at(const Slab& slab, const Place& place, const float* w) {
    std::vector<float> found;
    for (int64_t r = place.first_row; r < place.first_row + place.rows; ++r)
        for (int64_t c = place.first_col; c < place.first_col + place.width; ++c)
            found.push_back(w ? w[r * slab.cols + c] : 1.0f);
    return found;
}

// The nearest codes under the scale that was stored; encode(number) is the element's.
template <typename Encode>
void store_codes(const Slab& slab, const Place& place, const float* w, int bits, Encode encode) {
    const float inverse = inverse_of(load_scale(slab, place.scale));
    for (int64_t r = place.first_row; r < place.first_row + place.rows; ++r) {
        uint8_t* row = slab.codes + r * code_row_bytes(slab.cols, bits);
        for (int64_t c = place.first_col; c < place.first_col + place.width; ++c)
            put_code(row, c, bits, encode(w[r * slab.cols + c] * inverse));
    }
}

template <typename Decode>
void decode_codes(const Slab& slab, int bits, float* w, Decode decode) {
    for_scopes(slab, [&](const Place& place) {
        const float scale = load_scale(slab, place.scale);
        for (int64_t r = place.first_row; r < place.first_row + place.rows; ++r)
            for (int64_t c = place.first_col; c < place.first_col + place.width; ++c) {
                const int code = get_code(slab.codes + r * code_row_bytes(slab.cols, bits), c, bits);
                w[r * slab.cols + c] = scale * decode(static_cast<uint8_t>(code));
            }
    });
}

inline void clear_codes(const Slab& slab, int bits) {
    std::memset(slab.codes, 0, static_cast<size_t>(slab.rows * code_row_bytes(slab.cols, bits)));
}

}  // namespace
}  // namespace fewbits
