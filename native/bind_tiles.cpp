// Python's door to parts of stored matrices as numbers: checks sizes, releases the interpreter lock, calls the kernels.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <tuple>
#include <vector>

#include "arguments.h"
#include "bindings.h"
#include "engine/tiles.h"
#include "fewbits/lattices.h"
#include "groups_arguments.h"

namespace fewbits {
namespace {

using HalvesOut = nb::ndarray<uint16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Corner = std::tuple<int64_t, int64_t>;  // the first row and the first column of what is wanted

Tile tile_of(const FloatsOut& out) { return {static_cast<int64_t>(out.shape(0)), static_cast<int64_t>(out.shape(1)), out.data(), nullptr}; }
Tile tile_of(const HalvesOut& out) {
    return {static_cast<int64_t>(out.shape(0)), static_cast<int64_t>(out.shape(1)), nullptr, reinterpret_cast<uint8_t*>(out.data())};
}

void require_inside(const Tile& tile, const Corner& from, int64_t rows, int64_t cols, int threads) {
    const auto [row, col] = from;
    require(row >= 0 && col >= 0 && tile.rows > 0 && tile.cols > 0 && row + tile.rows <= rows && col + tile.cols <= cols,
            "there are no such rows and columns");
    require(threads > 0 && threads <= 1024, "tiles are read by 1 to 1024 threads");
}

// Of rows of spans.
template <typename Out>
void tile_of_rows(const std::string& format, const Bytes& stored, const Corner& from, const Out& out, int threads, const std::string& isa) {
    const KernelTable& table = table_of(isa);
    const Codec* codec = codec_of(table, format.c_str());
    if (!codec) throw std::invalid_argument("no native codec for format '" + format + "'");
    require(!codec->lattice || lattice(codec->lattice), "the points of the format were not given");
    const Tile tile = tile_of(out);
    const auto [first_row, first_col] = from;
    const auto row_bytes = static_cast<int64_t>(stored.shape(1));
    require(row_bytes % codec->bytes == 0 && first_col % codec->columns == 0 && tile.cols % codec->columns == 0,
            "columns are not a multiple of the format's span");
    require_inside(tile, from, static_cast<int64_t>(stored.shape(0)), row_bytes / codec->bytes * codec->columns, threads);
    const uint8_t* begin = stored.data() + first_row * row_bytes + first_col / codec->columns * codec->bytes;
    nb::gil_scoped_release unlocked;
    read_tile(table, tile, threads, [&] {
        return [codec, begin, row_bytes, spans = tile.cols / codec->columns](int64_t row, float* w) {
            codec->decode(begin + row * row_bytes, spans, w);
        };
    });
}

// Packed codes and zero points, and scales as they are stored (groups_arguments.h).
using GroupedFields = std::tuple<Bytes, StoredScales, Bytes>;

// Reads columns `first` .. of rows from `first_row` on. A group that is wider than a tile counts as one of the tile's width.
class GroupReader {
  public:
    GroupReader(const Grouped& format, const GroupedFields& fields, const KernelTable& table, int64_t rows, int64_t cols, const Corner& from, int64_t width)
        : format_(format), kernels_(grouped_of(table)), codes_(std::get<0>(fields)), zeros_(std::get<2>(fields)), first_row_(std::get<0>(from)),
          first_(std::get<1>(from)), width_(width), all_groups_(cols / format.group), first_group_(first_ / format.group),
          lines_(std::get<1>(fields), table, rows, all_groups_), whole_(format.fives || first_ * format.bits % 8 != 0) {
        format_.group = std::min(format.group, width);
        count_ = width / format_.group;
        unpacked_.resize(static_cast<size_t>(whole_ ? first_ + width : width));
        zero_.resize(static_cast<size_t>(all_groups_));
    }
    void operator()(int64_t row, float* w) {
        const int64_t own = first_row_ + row;
        if (format_.steps == Steps::zero) {
            const uint8_t* line = zeros_.data() + (zeros_.shape(0) == 1 ? 0 : own * static_cast<int64_t>(zeros_.shape(1)));
            kernels_.unpack(format_, line, all_groups_, zero_.data());
        }
        const uint8_t* stored = codes_.data() + own * static_cast<int64_t>(codes_.shape(1));
        const float* scales = lines_.of(own, first_group_, count_);
        kernels_.decode(format_, codes(stored), scales, zero_.data() + first_group_, count_, w);
    }

  private:
    Grouped format_;
    const GroupedKernels& kernels_;
    const Bytes &codes_, &zeros_;
    const int64_t first_row_, first_, width_, all_groups_, first_group_;
    int64_t count_;
    ScaleLines lines_;
    const bool whole_;  // whether codes are unpacked from the beginning of the row
    std::vector<uint8_t> unpacked_, zero_;

    const uint8_t* codes(const uint8_t* stored) {
        if (format_.bits == 8 && !format_.flip) return stored + first_;
        if (whole_) kernels_.unpack(format_, stored, first_ + width_, unpacked_.data());
        else kernels_.unpack(format_, stored + first_ * format_.bits / 8, width_, unpacked_.data());
        return unpacked_.data() + (whole_ ? first_ : 0);
    }
};

template <typename Out>
void tile_of_groups(const Groups& groups, const GroupedFields& fields, int64_t cols, const Corner& from, const Out& out, int threads,
                    const std::string& isa) {
    const KernelTable& table = table_of(isa);
    const auto& [codes, scales, zeros] = fields;
    const Grouped& format = groups.format;
    const Tile tile = tile_of(out);
    const int64_t rows = static_cast<int64_t>(codes.shape(0)), count = groups_per_row(groups, cols), first = std::get<1>(from);
    require_inside(tile, from, rows, cols, threads);
    const bool whole = first % format.group == 0 && tile.cols % format.group == 0;
    require(whole || first / format.group == (first + tile.cols - 1) / format.group, "columns are neither whole groups nor within one");
    const auto zero_lines = static_cast<int64_t>(zeros.shape(0));
    require(format.steps != Steps::zero || (static_cast<int64_t>(zeros.shape(1)) == format.packed_bytes(count) && (zero_lines == rows || zero_lines == 1)),
            "the zero points have the wrong shape");
    require(static_cast<int64_t>(codes.shape(1)) == format.packed_bytes(cols), "the codes have the wrong shape");
    ScaleLines checked(scales, table, rows, count);
    nb::gil_scoped_release unlocked;
    read_tile(table, tile, threads, [&] { return GroupReader(format, fields, table, rows, cols, from, tile.cols); });
}

}  // namespace

void bind_tiles(nb::module_& m) {
    const auto rows = [&](auto function) {
        m.def("tile_of_rows", function, nb::arg("format"), nb::arg("stored"), nb::arg("first"), nb::arg("out"), nb::arg("threads"), nb::arg("isa") = "");
    };
    rows(&tile_of_rows<FloatsOut>);
    rows(&tile_of_rows<HalvesOut>);
    const auto groups = [&](auto function) {
        m.def("tile_of_groups", function, nb::arg("groups"), nb::arg("fields"), nb::arg("cols"), nb::arg("first"), nb::arg("out"), nb::arg("threads"),
              nb::arg("isa") = "");
    };
    groups(&tile_of_groups<FloatsOut>);
    groups(&tile_of_groups<HalvesOut>);
}

}  // namespace fewbits
