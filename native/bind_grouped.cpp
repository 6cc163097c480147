// Python's door to codes under one scale per group: checks sizes, releases the interpreter lock, calls the kernels.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "bindings.h"
#include "groups_arguments.h"

namespace fewbits {
namespace {

// The distinct numbers of a table in order, then infinity, and the code at which each stands first. A damaged file may
// bring NaN, for which infinity stands here: no number is nearest to either.
void sort_table(Grouped& f, std::vector<float> table) {
    std::copy(table.begin(), table.end(), f.table);
    std::replace_if(table.begin(), table.end(), [](float x) { return std::isnan(x); }, INFINITY);
    std::vector<int> codes;
    for (size_t c = 0; c < table.size(); ++c)
        if (std::find(table.begin(), table.begin() + static_cast<std::ptrdiff_t>(c), table[c]) == table.begin() + static_cast<std::ptrdiff_t>(c))
            codes.push_back(static_cast<int>(c));
    std::stable_sort(codes.begin(), codes.end(), [&](int a, int b) { return table[static_cast<size_t>(a)] < table[static_cast<size_t>(b)]; });
    f.distinct = static_cast<int>(codes.size());
    for (size_t k = 0; k < most_numbers; ++k) {
        f.sorted[k] = k < codes.size() ? table[static_cast<size_t>(codes[k])] : INFINITY;
        f.order[k] = codes.empty() ? uint8_t{0} : static_cast<uint8_t>(codes[std::min(k, codes.size() - 1)]);
    }
}

std::unique_ptr<Groups> groups_of(int steps, int bits, bool fives, int64_t group, std::vector<int> codes,
                                  std::vector<float> levels, const std::vector<float>& table) {
    require(steps >= 0 && steps <= 3 && bits >= 1 && bits <= 8 && group >= 1, "there are no such groups");
    require(codes.size() == 4, "bottom, top, middle and flip are wanted");
    require(table.empty() ? steps != 3 : table.size() == size_t{1} << bits, "a table has a number for each code");
    auto made = std::make_unique<Groups>();
    made->levels = std::move(levels);
    made->format = {static_cast<Steps>(steps), bits, fives, group, codes[0], codes[1], codes[2], codes[3], nullptr, 0, 0, {}, {}, {}};
    made->format.levels = made->levels.data();
    made->format.level_count = static_cast<int>(made->levels.size());
    sort_table(made->format, table);
    return made;
}

// The step and the zero point of every group; returns (largest magnitude, numbers that are not finite).
nb::tuple fit(const Groups& groups, const Bytes& source, const std::string& numbers, const std::optional<Floats>& importance,
              const FloatsOut& steps, const BytesOut& zeros, const std::string& isa) {
    const KernelTable& table = table_of(isa);
    const GroupedKernels& grouped = grouped_of(table);
    const Number kind = number_of(numbers);
    const int64_t rows = static_cast<int64_t>(source.shape(0)), row_bytes = static_cast<int64_t>(source.shape(1));
    const int64_t cols = row_bytes / width_of(kind), count = groups_per_row(groups, cols);
    require_shape(steps, rows, count, "one step per group is wanted");
    require_shape(zeros, rows, count, "one zero point per group is wanted");
    require(!importance || static_cast<int64_t>(importance->shape(0)) == cols, "one importance per column is wanted");
    float largest = 0.0f;
    int64_t not_finite = 0;
    {
        nb::gil_scoped_release unlocked;
        std::vector<float> w(static_cast<size_t>(cols));
        for (int64_t row = 0; row < rows; ++row) {
            float absmax;
            int64_t bad;
            table.extent(kind, source.data() + row * row_bytes, cols, &absmax, &bad);
            largest = std::max(largest, absmax);
            not_finite += bad;
            table.widen(kind, source.data() + row * row_bytes, cols, w.data());
            grouped.fit(groups.format, w.data(), importance ? importance->data() : nullptr, count,
                        steps.data() + row * count, zeros.data() + row * count);
        }
    }
    return nb::make_tuple(largest, not_finite);
}

using Scales = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Codes under given scales, and how far they are from the source, per row.
void encode(const Groups& groups, const Bytes& source, const std::string& numbers, const Scales& scales, const Bytes& zeros,
            const BytesOut& stored, const Doubles& squared_error, const Doubles& squared, const std::string& isa) {
    const KernelTable& table = table_of(isa);
    const GroupedKernels& grouped = grouped_of(table);
    const Number kind = number_of(numbers);
    const int64_t rows = static_cast<int64_t>(source.shape(0)), row_bytes = static_cast<int64_t>(source.shape(1));
    const int64_t cols = row_bytes / width_of(kind), count = groups_per_row(groups, cols);
    const int64_t code_bytes = groups.format.packed_bytes(cols);
    require_shape(scales, rows, count, "one scale per group is wanted");
    require_shape(zeros, rows, count, "one zero point per group is wanted");
    require_shape(stored, rows, code_bytes, "the codes have the wrong shape");
    require(static_cast<int64_t>(squared_error.shape(0)) == rows && static_cast<int64_t>(squared.shape(0)) == rows,
            "one error per row is wanted");
    nb::gil_scoped_release unlocked;
    std::vector<float> w(static_cast<size_t>(cols)), back(w.size());
    std::vector<uint8_t> codes(w.size());
    for (int64_t row = 0; row < rows; ++row) {
        const float* scale = scales.data() + row * count;
        const uint8_t *zero = zeros.data() + row * count, *in = source.data() + row * row_bytes;
        table.widen(kind, in, cols, w.data());
        grouped.encode(groups.format, w.data(), scale, zero, count, codes.data());
        grouped.decode(groups.format, codes.data(), scale, zero, count, back.data());
        grouped.pack(groups.format, codes.data(), cols, stored.data() + row * code_bytes);
        const Deviation d = table.deviation(kind, in, back.data(), cols);
        squared_error.data()[row] = d.squared_error;
        squared.data()[row] = d.squared;
    }
}

// Numbers of codes; zero points are packed as codes are, in one line or one per row.
void decode(const Groups& groups, const Bytes& stored, const StoredScales& scales, const Bytes& zeros, const FloatsOut& w,
            const std::string& isa) {
    const KernelTable& table = table_of(isa);
    const GroupedKernels& grouped = grouped_of(table);
    const Grouped& format = groups.format;
    const int64_t rows = static_cast<int64_t>(w.shape(0)), cols = static_cast<int64_t>(w.shape(1));
    const int64_t count = groups_per_row(groups, cols), code_bytes = format.packed_bytes(cols);
    const bool as_they_lie = format.bits == 8 && !format.flip;
    const bool zeroed = format.steps == Steps::zero;
    const auto zero_lines = static_cast<int64_t>(zeros.shape(0)), zero_bytes = static_cast<int64_t>(zeros.shape(1));
    require(!zeroed || (zero_bytes == format.packed_bytes(count) && (zero_lines == rows || zero_lines == 1)),
            "the zero points have the wrong shape");
    require_shape(stored, rows, code_bytes, "the codes have the wrong shape");
    ScaleLines lines(scales, table, rows, count);
    nb::gil_scoped_release unlocked;
    std::vector<uint8_t> codes(static_cast<size_t>(cols)), zero(static_cast<size_t>(count));
    for (int64_t row = 0; row < rows; ++row) {
        if (zeroed) grouped.unpack(format, zeros.data() + (zero_lines == 1 ? 0 : row * zero_bytes), count, zero.data());
        const uint8_t* own = stored.data() + row * code_bytes;
        if (!as_they_lie) grouped.unpack(format, own, cols, codes.data());
        grouped.decode(format, as_they_lie ? own : codes.data(), lines.of(row), zero.data(), count, w.data() + row * cols);
    }
}

}  // namespace

void bind_grouped(nb::module_& m) {
    nb::class_<Groups>(m, "Groups");
    m.def("groups", &groups_of, nb::arg("steps"), nb::arg("bits"), nb::arg("fives"), nb::arg("group"),
          nb::arg("codes"), nb::arg("levels"), nb::arg("table"));
    m.def("fit_groups", &fit, nb::arg("groups"), nb::arg("source"), nb::arg("numbers"), nb::arg("importance").none(),
          nb::arg("steps"), nb::arg("zeros"), nb::arg("isa") = "");
    m.def("encode_groups", &encode, nb::arg("groups"), nb::arg("source"), nb::arg("numbers"), nb::arg("scales"),
          nb::arg("zeros"), nb::arg("stored"), nb::arg("squared_error"), nb::arg("squared"), nb::arg("isa") = "");
    m.def("decode_groups", &decode, nb::arg("groups"), nb::arg("stored"), nb::arg("scales"), nb::arg("zeros"), nb::arg("w"),
          nb::arg("isa") = "");
}

}  // namespace fewbits
