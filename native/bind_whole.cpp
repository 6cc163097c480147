// Python's door to layers in whole numbers: checks sizes, releases the interpreter lock, calls the kernels.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "bindings.h"
#include "engine/adding.h"
#include "engine/convolving.h"

namespace fewbits {
namespace {

using Picture = nb::ndarray<const uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Line = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Packed = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Weights = nb::ndarray<const int8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;  // (rows, down, across, channels of a group)
using RowSums = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Factors = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Codes = nb::ndarray<uint8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<int32_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Steps = std::vector<int64_t>;                           // stride, padding, dilation, each down and across; groups
using Source = std::tuple<int, bool>;                         // the zero point, whether codes are signed
using Shape = std::array<int64_t, 4>;
using Rounding = std::tuple<Factors, Factors, int, int, int>;  // factor, half, zero, low and high

template <typename Array>
int64_t size(const Array& array, size_t dimension) { return static_cast<int64_t>(array.shape(dimension)); }

Geometry geometry_of(const Steps& steps, const Shape& weights, const Shape& x, const Source& source) {
    require(steps.size() == 7, "stride, padding, dilation and groups are seven numbers");
    Geometry g{x[0], x[1], x[2], x[3], weights[0], steps[6], {weights[1], weights[2]}, {steps[0], steps[1]}, {steps[2], steps[3]}, {steps[4], steps[5]},
               static_cast<uint8_t>(std::get<0>(source)), std::get<1>(source)};
    require(g.groups > 0 && g.channels % g.groups == 0 && g.rows % g.groups == 0 && g.group_channels() == weights[3], "channels and groups do not belong to the weights");
    for (int along : {0, 1})
        require(g.kernel[along] > 0 && g.stride[along] > 0 && g.padding[along] >= 0 && g.dilation[along] > 0, "steps have to be positive");
    require(g.out(0, g.height) > 0 && g.out(1, g.width) > 0, "the kernel is larger than the picture");
    return g;
}

// With the smallest picture that these weights fit: how they are packed does not depend on pictures.
Geometry geometry_alone(const Shape& weights, const Steps& steps) {
    require(steps.size() == 7, "stride, padding, dilation and groups are seven numbers");
    return geometry_of(steps, weights, {1, steps[4] * weights[1], steps[5] * weights[2], steps[6] * weights[3]}, {0, true});
}

const WholeKernels& kernels_for(const std::string& isa) { return whole_kernels_of(table_of(isa)); }

int64_t whole_bytes(const std::vector<int64_t>& weights, const Steps& steps, const std::string& isa) {
    require(weights.size() == 4, "weights have four dimensions");
    return packed_bytes(kernels_for(isa), geometry_alone({weights[0], weights[1], weights[2], weights[3]}, steps));
}

void pack_whole(const Weights& w, const Steps& steps, const Line& packed, const std::string& isa) {
    const Geometry g = geometry_alone({size(w, 0), size(w, 1), size(w, 2), size(w, 3)}, steps);
    require(size(packed, 0) == packed_bytes(kernels_for(isa), g), "the room for packed weights has the wrong size");
    nb::gil_scoped_release unlocked;
    pack_rows(kernels_for(isa), g, w.data(), packed.data());
}

Geometry checked(const Packed& packed, const std::vector<int64_t>& shape, const Steps& steps, const Picture& x, const Source& source, const RowSums& sums,
                 int threads, const WholeKernels& kernels) {
    require(shape.size() == 4, "weights have four dimensions");
    const Geometry g = geometry_of(steps, {shape[0], shape[1], shape[2], shape[3]}, {size(x, 0), size(x, 1), size(x, 2), size(x, 3)}, source);
    require(size(packed, 0) == packed_bytes(kernels, g), "packed weights have the wrong size");
    require(size(sums, 0) == g.rows, "there is one sum per row");
    require(threads > 0 && threads <= 1024, "1 to 1024 threads compute");
    return g;
}

std::vector<int32_t> offsets(const WholeKernels& kernels, const Source& source, const RowSums& sums) {
    const int32_t shift = shift_of(kernels, std::get<1>(source), std::get<0>(source));
    std::vector<int32_t> found(sums.data(), sums.data() + sums.shape(0));
    for (int32_t& each : found) each *= shift;
    return found;
}

template <typename Array>
void require_results(const Geometry& g, const Array& out) {
    require(size(out, 0) == g.samples && size(out, 1) == g.out(0, g.height) && size(out, 2) == g.out(1, g.width) && size(out, 3) == g.rows,
            "results have the wrong shape");
}

void whole_codes(const Packed& packed, const std::vector<int64_t>& shape, const Steps& steps, const Picture& x, const Source& source, const RowSums& row_sums,
                 const Rounding& rounding, const Codes& out, int threads, const std::string& isa) {
    const WholeKernels& kernels = kernels_for(isa);
    const Geometry g = checked(packed, shape, steps, x, source, row_sums, threads, kernels);
    const auto& [factor, half, zero, low, high] = rounding;
    require(size(factor, 0) == g.rows && size(half, 0) == g.rows, "there is one factor per row");
    require_results(g, out);
    const std::vector<int32_t> offset = offsets(kernels, source, row_sums);
    nb::gil_scoped_release unlocked;
    convolve(kernels, g, x.data(), packed.data(), {out.data(), nullptr, {offset.data(), factor.data(), half.data(), {zero, low, high}}}, threads);
}

void whole_sums(const Packed& packed, const std::vector<int64_t>& shape, const Steps& steps, const Picture& x, const Source& source, const RowSums& row_sums,
                const Sums& out, int threads, const std::string& isa) {
    const WholeKernels& kernels = kernels_for(isa);
    const Geometry g = checked(packed, shape, steps, x, source, row_sums, threads, kernels);
    require_results(g, out);
    const std::vector<int32_t> offset = offsets(kernels, source, row_sums);
    nb::gil_scoped_release unlocked;
    convolve(kernels, g, x.data(), packed.data(), {nullptr, out.data(), {offset.data(), nullptr, nullptr, {}}}, threads);
}

using Two = std::tuple<Source, Source>;
using Sum = std::tuple<double, double, double, double, int, int, int>;  // both m, factor, half, zero, low and high

void whole_added(const Packed& one, const Packed& other, const Two& sources, const Sum& how, const Line& out, int threads, const std::string& isa) {
    const WholeKernels& kernels = kernels_for(isa);
    require(one.shape(0) == other.shape(0) && one.shape(0) == out.shape(0), "codes and their sums are as many");
    require(threads > 0 && threads <= 1024, "1 to 1024 threads compute");
    const auto& [first, second] = sources;
    const auto& [m, n, factor, half, zero, low, high] = how;
    const Addition addition{{std::get<1>(first), std::get<1>(second)}, {std::get<0>(first), std::get<0>(second)}, {m, n}, factor, half, {zero, low, high}};
    nb::gil_scoped_release unlocked;
    add_codes(kernels, one.data(), other.data(), size(out, 0), addition, out.data(), threads);
}

}  // namespace

void bind_whole(nb::module_& m) {
    m.def("whole_bytes", &whole_bytes, nb::arg("weights"), nb::arg("steps"), nb::arg("isa") = "");
    m.def("pack_whole", &pack_whole, nb::arg("w"), nb::arg("steps"), nb::arg("packed"), nb::arg("isa") = "");
    m.def("whole_codes", &whole_codes, nb::arg("packed"), nb::arg("weights"), nb::arg("steps"), nb::arg("x"), nb::arg("source"), nb::arg("row_sums"),
          nb::arg("rounding"), nb::arg("out"), nb::arg("threads"), nb::arg("isa") = "");
    m.def("whole_sums", &whole_sums, nb::arg("packed"), nb::arg("weights"), nb::arg("steps"), nb::arg("x"), nb::arg("source"), nb::arg("row_sums"),
          nb::arg("out"), nb::arg("threads"), nb::arg("isa") = "");
    m.def("whole_added", &whole_added, nb::arg("one"), nb::arg("other"), nb::arg("sources"), nb::arg("how"), nb::arg("out"), nb::arg("threads"),
          nb::arg("isa") = "");
}

}  // namespace fewbits
