// Codes under one scale per group as Python hands them over: a member of a family, scales as they are stored.
#pragma once
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <string>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "fewbits/grouped.h"

namespace fewbits {

// A member of a family, with the levels that `format` points to.
struct Groups {
    Grouped format;
    std::vector<float> levels;
};

namespace {

inline const GroupedKernels& grouped_of(const KernelTable& table) {
    for (size_t f = 0; f < table.family_count; ++f)
        if (table.families[f]->grouped) return *table.families[f]->grouped;
    throw std::invalid_argument("this build has no kernels for groups");
}

inline int64_t groups_per_row(const Groups& groups, int64_t cols) {
    require(cols > 0 && cols % groups.format.group == 0, "columns are not a multiple of the group");
    return cols / groups.format.group;
}

template <typename Array>
void require_shape(const Array& array, int64_t rows, int64_t cols, const char* what) {
    require(static_cast<int64_t>(array.shape(0)) == rows && static_cast<int64_t>(array.shape(1)) == cols, what);
}

// Scales as they lie on disk: bytes, one line of them or one per row; f32, f16, bf16 or dq. In the latter case a byte means
// one of the numbers that follow, times one of those after them, one for each 256 bytes, plus the offset.
using StoredScales = std::tuple<Bytes, std::string, Floats, Floats, float>;

class ScaleLines {
  public:
    ScaleLines(const StoredScales& stored, const KernelTable& table, int64_t rows, int64_t count)
        : stored_(stored), table_(table), count_(count), line_(static_cast<size_t>(count)) {
        const auto& [bytes, type, numbers, nested, offset] = stored_;
        doubled_ = type == "dq";
        kind_ = type == "f16" ? Number::f16 : type == "bf16" ? Number::bf16 : Number::f32;
        require(doubled_ || kind_ != Number::f32 || type == "f32", "scales are f32, f16, bf16 or dq");
        const auto lines = static_cast<int64_t>(bytes.shape(0));
        require(static_cast<int64_t>(bytes.shape(1)) == count * width() && (lines == rows || lines == 1), "the scales have the wrong shape");
        require(!doubled_ || (numbers.size() == 256 && static_cast<int64_t>(nested.size()) * 256 >= lines * count),
                "scales of scales are missing");
    }
    const float* of(int64_t row) { return of(row, 0, count_); }
    // `count` of them, from scale `at` of the row on.
    const float* of(int64_t row, int64_t at, int64_t count) {
        const auto& [bytes, type, numbers, nested, offset] = stored_;
        const int64_t first = (bytes.shape(0) == 1 ? 0 : row * count_) + at;
        const uint8_t* p = bytes.data() + first * width();
        if (!doubled_) table_.widen(kind_, p, count, line_.data());
        else
            for (int64_t i = 0; i < count; ++i)
                line_[static_cast<size_t>(i)] = nested.data()[(first + i) / 256] * numbers.data()[p[i]] + offset;
        return line_.data();
    }

  private:
    const StoredScales& stored_;
    const KernelTable& table_;
    int64_t count_;
    std::vector<float> line_;
    bool doubled_;
    Number kind_;

    int64_t width() const { return doubled_ ? 1 : width_of(kind_); }
};

}  // namespace
}  // namespace fewbits
