// What Python sees, with the files bind_*.cpp: checks sizes, releases the interpreter lock, calls the table.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "bindings.h"
#include "fewbits/kernels.h"
#include "fewbits/lattices.h"
#include "row_encoder.h"
#include "verify/lattices.h"

using namespace fewbits;

namespace {

using Points = nb::ndarray<const int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

const Codec& required_codec(const KernelTable& table, const std::string& format) {
    const Codec* codec = codec_of(table, format.c_str());
    if (!codec) throw std::invalid_argument("no native codec for format '" + format + "'");
    if (codec->lattice && !lattice(codec->lattice))
        throw std::invalid_argument("the points of " + std::string(codec->lattice) + " were not given");
    return *codec;
}

// What has been seen of the numbers: their largest magnitude, and how many are not finite.
struct Seen {
    float largest = 0.0f;
    int64_t not_finite = 0;

    // Measures how far a row is from what was stored of it. All numbers are read for that anyway, so that only rows with
    // numbers that are not finite are looked at again.
    Deviation measure(const KernelTable& table, Number kind, const uint8_t* in, const float* back, int64_t cols) {
        const Deviation d = table.deviation(kind, in, back, cols);
        note(table, kind, in, cols, d);
        return d;
    }

    // The same of a row that was measured while it was encoded.
    void note(const KernelTable& table, Number kind, const uint8_t* in, int64_t cols, const Deviation& d) {
        float own = d.largest;
        int64_t bad = 0;
        if (!std::isfinite(d.squared) || !std::isfinite(d.largest)) table.extent(kind, in, cols, &own, &bad);
        largest = std::max(largest, own);
        not_finite += bad;
    }
};

// Encodes row by row and measures what comes back; returns (largest magnitude, numbers that are not finite).
nb::tuple encode(const std::string& format, const Bytes& source, const std::string& numbers, const BytesOut& stored,
                 const Doubles& squared_error, const Doubles& squared, const std::optional<Floats>& importance,
                 const std::string& isa) {
    const KernelTable& table = table_of(isa);
    const Codec& codec = required_codec(table, format);
    const Number kind = number_of(numbers);
    const int64_t rows = static_cast<int64_t>(source.shape(0));
    const int64_t row_bytes = static_cast<int64_t>(source.shape(1)), cols = row_bytes / width_of(kind);
    require(cols % codec.columns == 0, "columns are not a multiple of the format's span");
    const int64_t spans = cols / codec.columns;
    require(stored.shape(0) == source.shape(0) && static_cast<int64_t>(stored.shape(1)) == spans * codec.bytes,
            "the output has the wrong shape");
    require(static_cast<int64_t>(squared_error.shape(0)) == rows && static_cast<int64_t>(squared.shape(0)) == rows,
            "one error per row is wanted");
    require(!importance || static_cast<int64_t>(importance->shape(0)) == cols, "one importance per column is wanted");
    Seen seen;
    {
        nb::gil_scoped_release unlocked;
        RowEncoder encode_rows(table, codec, kind, cols, importance);
        std::vector<Deviation> found(static_cast<size_t>(encode_rows.together()));
        for (int64_t row = 0; row < rows; row += encode_rows.together()) {
            const int64_t present = std::min(encode_rows.together(), rows - row);
            const uint8_t* in = source.data() + row * row_bytes;
            encode_rows(in, present, stored.data() + row * spans * codec.bytes, found.data());
            for (int64_t r = 0; r < present; ++r) {
                const Deviation& d = found[static_cast<size_t>(r)];
                seen.note(table, kind, in + r * row_bytes, cols, d);
                squared_error.data()[row + r] = d.squared_error;
                squared.data()[row + r] = d.squared;
            }
        }
    }
    return nb::make_tuple(seen.largest, seen.not_finite);
}

void decode(const std::string& format, const Bytes& stored, const FloatsOut& w, const std::string& isa) {
    const KernelTable& table = table_of(isa);
    const Codec& codec = required_codec(table, format);
    const int64_t cols = static_cast<int64_t>(w.shape(1));
    require(cols % codec.columns == 0 && stored.shape(0) == w.shape(0) &&
                static_cast<int64_t>(stored.shape(1)) == cols / codec.columns * codec.bytes,
            "stored bytes and numbers disagree in shape");
    const int64_t spans = static_cast<int64_t>(w.shape(0)) * (cols / codec.columns);
    nb::gil_scoped_release unlocked;
    codec.decode(stored.data(), spans, w.data());
}

const FieldCodec& required_field_codec(const KernelTable& table, const std::string& kind) {
    if (const FieldCodec* codec = field_codec_of(table, kind.c_str())) return *codec;
    throw std::invalid_argument("no native codec for codes of the kind '" + kind + "'");
}

ScaleType scale_type_of(const std::string& name) {
    constexpr const char* names[] = {"f32", "f16", "bf16", "e8m0", "e4m3", "e4m3_divided"};
    for (int i = 0; i < 6; ++i)
        if (name == names[i]) return static_cast<ScaleType>(i);
    throw std::invalid_argument("scales are f32, f16, bf16, e8m0, e4m3 or e4m3_divided, not '" + name + "'");
}

// (rows, columns) that share a scale, 0 = all; the type of scales; what the rest is multiplied by.
using Scaling = std::tuple<int64_t, int64_t, std::string, float>;

// The slab of fields of a (rows, cols) matrix, after a check of their sizes.
template <typename Codes>
Slab slab_of(const FieldCodec& codec, const Codes& codes, const Codes& scales, int64_t rows, int64_t cols,
             const Scaling& scaling) {
    const auto& [scope_rows, span, type, tensor_scale] = scaling;
    auto* code_bytes = const_cast<uint8_t*>(codes.data());
    Slab slab{rows, cols, scope_rows, span, scale_type_of(type), code_bytes, const_cast<uint8_t*>(scales.data()), tensor_scale};
    require(scope_rows >= 0 && span >= 0 && cols > 0 && cols % slab.span() == 0, "columns are not a multiple of the span");
    const int64_t lines = scope_rows ? (rows + scope_rows - 1) / scope_rows : 1;
    require(static_cast<int64_t>(codes.shape(0)) == rows && static_cast<int64_t>(codes.shape(1)) == (cols * codec.bits + 7) / 8,
            "the codes have the wrong shape");
    require(static_cast<int64_t>(scales.size()) == lines * slab.scales_per_line() * scale_bytes(slab.type),
            "the scales have the wrong shape");
    return slab;
}

// Rows of a slab from where a line of scales begins.
Slab part_of(const Slab& slab, const FieldCodec& codec, int64_t row, int64_t rows) {
    Slab part = slab;
    part.rows = rows;
    part.codes += row * ((slab.cols * codec.bits + 7) / 8);
    if (slab.scope_rows) part.scales += row / slab.scope_rows * slab.scales_per_line() * scale_bytes(slab.type);
    return part;
}

// As `encode`, into fields; a scale of all rows is given.
nb::tuple encode_fields(const std::string& kind, const Bytes& source, const std::string& numbers, const BytesOut& codes,
                        const BytesOut& scales, const Scaling& scaling, const Doubles& squared_error,
                        const Doubles& squared, const std::optional<Floats>& importance, const std::string& isa) {
    const KernelTable& table = table_of(isa);
    const FieldCodec& codec = required_field_codec(table, kind);
    const Number number = number_of(numbers);
    const int64_t rows = static_cast<int64_t>(source.shape(0));
    const int64_t row_bytes = static_cast<int64_t>(source.shape(1)), cols = row_bytes / width_of(number);
    const Slab slab = slab_of(codec, codes, scales, rows, cols, scaling);
    require(static_cast<int64_t>(squared_error.shape(0)) == rows && static_cast<int64_t>(squared.shape(0)) == rows,
            "one error per row is wanted");
    require(!importance || static_cast<int64_t>(importance->shape(0)) == cols, "one importance per column is wanted");
    Seen seen;
    {
        nb::gil_scoped_release unlocked;
        const int64_t together = slab.scope_rows > 1 ? slab.scope_rows : std::max<int64_t>(1, 2048 / cols);
        Widened widened(table, number, cols * together);
        std::vector<float> back(static_cast<size_t>(cols * together)), weights(importance ? back.size() : 0);
        for (size_t at = 0; at < weights.size(); ++at) weights[at] = importance->data()[at % static_cast<size_t>(cols)];
        for (int64_t row = 0; row < rows; row += together) {
            const int64_t present = std::min(together, rows - row);
            const uint8_t* in = source.data() + row * row_bytes;
            const Slab part = part_of(slab, codec, row, present);
            codec.encode(part, widened(in, present * cols), importance ? weights.data() : nullptr);
            codec.decode(part, back.data());
            for (int64_t r = 0; r < present; ++r) {
                const Deviation d = seen.measure(table, number, in + r * row_bytes, back.data() + r * cols, cols);
                squared_error.data()[row + r] = d.squared_error;
                squared.data()[row + r] = d.squared;
            }
        }
    }
    return nb::make_tuple(seen.largest, seen.not_finite);
}

void decode_fields(const std::string& kind, const Bytes& codes, const Bytes& scales, const Scaling& scaling,
                   const FloatsOut& w, const std::string& isa) {
    const KernelTable& table = table_of(isa);
    const FieldCodec& codec = required_field_codec(table, kind);
    const auto rows = static_cast<int64_t>(w.shape(0)), cols = static_cast<int64_t>(w.shape(1));
    const Slab slab = slab_of(codec, codes, scales, rows, cols, scaling);
    nb::gil_scoped_release unlocked;
    codec.decode(slab, w.data());
}

// Largest magnitude and count of NaN and infinite numbers.
nb::tuple extent(const Bytes& source, const std::string& numbers, const std::string& isa) {
    const KernelTable& table = table_of(isa);
    const Number kind = number_of(numbers);
    const int64_t count = static_cast<int64_t>(source.size()) / width_of(kind);
    float largest = 0.0f;
    int64_t not_finite = 0;
    {
        nb::gil_scoped_release unlocked;
        table.extent(kind, source.data(), count, &largest, &not_finite);
    }
    return nb::make_tuple(largest, not_finite);
}

// Sums of squared errors and of squares per row, as encoding measures them.
void deviation(const Bytes& source, const std::string& numbers, const FloatsIn& back, const Doubles& squared_error,
               const Doubles& squared) {
    const Number kind = number_of(numbers);
    const int64_t rows = static_cast<int64_t>(source.shape(0)), cols = static_cast<int64_t>(back.shape(1));
    require(static_cast<int64_t>(source.shape(1)) == cols * width_of(kind) && back.shape(0) == source.shape(0) &&
                squared_error.shape(0) == source.shape(0) && squared.shape(0) == source.shape(0),
            "numbers and what came back disagree in shape");
    nb::gil_scoped_release unlocked;
    for (int64_t row = 0; row < rows; ++row) {
        const uint8_t* in = source.data() + row * static_cast<int64_t>(source.shape(1));
        const Deviation d = kernels().deviation(kind, in, back.data() + row * cols, cols);
        squared_error.data()[row] = d.squared_error;
        squared.data()[row] = d.squared;
    }
}

void compare(const std::string& format, const Bytes& stored, const Bytes& source, const std::string& numbers,
             const Doubles& squared_error, const Doubles& squared, const Doubles& worst, double floor) {
    const int index = compare_format(format.c_str());
    require(index >= 0, "the reader of verification does not know this format");
    const Number kind = number_of(numbers);
    const int64_t rows = static_cast<int64_t>(source.shape(0));
    const int64_t cols = static_cast<int64_t>(source.shape(1)) / width_of(kind);
    require(stored.shape(0) == source.shape(0) && static_cast<int64_t>(squared_error.shape(0)) == rows &&
                static_cast<int64_t>(squared.shape(0)) == rows && static_cast<int64_t>(worst.shape(0)) == rows,
            "stored and source disagree in rows");
    require(stored.shape(1) * 8 >= static_cast<size_t>(cols), "too few stored bytes");
    const CompareFunction function = comparing();
    nb::gil_scoped_release unlocked;
    for (int64_t row = 0; row < rows; ++row) {
        const Agreement a = function(index, stored.data() + row * static_cast<int64_t>(stored.shape(1)), kind,
                                     source.data() + row * static_cast<int64_t>(source.shape(1)), cols, floor);
        squared_error.data()[row] = a.squared_error;
        squared.data()[row] = a.squared;
        worst.data()[row] = a.worst;
    }
}

// Format -> the lattice whose points its codec needs.
nb::dict lattices() {
    nb::dict needed;
    for (size_t f = 0; f < kernels().family_count; ++f) {
        const CodecFamily& family = *kernels().families[f];
        for (size_t i = 0; i < family.count; ++i)
            if (family.codecs[i].lattice) needed[family.codecs[i].name] = family.codecs[i].lattice;
    }
    return needed;
}

void give_points(const std::string& name, const Points& points) {
    require(give_lattice(name.c_str(), points.data(), static_cast<int64_t>(points.shape(0)),
                         static_cast<int64_t>(points.shape(1))),
            "these are not the points of that lattice");
}

// To the reader of verification: packed points, and the numbers that their bits mean.
void give_packed_points(const std::string& name, const Bytes& packed, const Points& numbers) {
    require(give_reader_points(name.c_str(), packed.data(), static_cast<int64_t>(packed.size()), numbers.data(),
                               static_cast<int64_t>(numbers.size())),
            "these are not the packed points of that lattice");
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Native codecs of fewbits; use them through fewbits.kernels.";
    m.attr("interface") = 12;  // grows when Python asks for more (kernels/module.py)
    m.def("isa", [] { return std::string(kernels().isa); });
    m.def("available", [] {
        std::vector<std::string> found;
        for (const char* isa : {"scalar", "avx2", "avx512", "neon"})
            if (kernels_of(isa)) found.emplace_back(isa);
        return found;
    });
    // Format -> whether its codec looks at importance.
    m.def("formats", [] {
        nb::dict known;
        for (size_t f = 0; f < kernels().family_count; ++f) {
            const CodecFamily& family = *kernels().families[f];
            for (size_t i = 0; i < family.count; ++i) known[family.codecs[i].name] = family.codecs[i].weighted;
        }
        return known;
    });
    m.def("lattices", &lattices);
    m.def("give_points", &give_points, nb::arg("name"), nb::arg("points"));
    m.def("give_packed_points", &give_packed_points, nb::arg("name"), nb::arg("packed"), nb::arg("numbers"));
    m.def("encode", &encode, nb::arg("format"), nb::arg("source"), nb::arg("numbers"), nb::arg("stored"),
          nb::arg("squared_error"), nb::arg("squared"), nb::arg("importance").none(), nb::arg("isa") = "");
    m.def("decode", &decode, nb::arg("format"), nb::arg("stored"), nb::arg("w"), nb::arg("isa") = "");
    m.def("kinds", [] {
        std::vector<std::string> known;
        for (size_t f = 0; f < kernels().family_count; ++f) {
            const CodecFamily& family = *kernels().families[f];
            for (size_t i = 0; i < family.field_count; ++i) known.emplace_back(family.field_codecs[i].kind);
        }
        return known;
    });
    m.def("encode_fields", &encode_fields, nb::arg("kind"), nb::arg("source"), nb::arg("numbers"), nb::arg("codes"),
          nb::arg("scales"), nb::arg("scaling"), nb::arg("squared_error"), nb::arg("squared"),
          nb::arg("importance").none(), nb::arg("isa") = "");
    m.def("decode_fields", &decode_fields, nb::arg("kind"), nb::arg("codes"), nb::arg("scales"), nb::arg("scaling"),
          nb::arg("w"), nb::arg("isa") = "");
    for (auto bind : {bind_engine, bind_feedback, bind_grouped, bind_layers, bind_lines, bind_products, bind_sampler, bind_strings, bind_tiles, bind_whole})
        bind(m);
    m.def("extent", &extent, nb::arg("source"), nb::arg("numbers"), nb::arg("isa") = "");
    m.def("deviation", &deviation, nb::arg("source"), nb::arg("numbers"), nb::arg("back"), nb::arg("squared_error"),
          nb::arg("squared"));
    m.def("compare", &compare, nb::arg("format"), nb::arg("stored"), nb::arg("source"), nb::arg("numbers"),
          nb::arg("squared_error"), nb::arg("squared"), nb::arg("worst"), nb::arg("floor"));
}
