// Python's door to error feedback: checks sizes, releases the interpreter lock, calls the kernels.
#include "bindings.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "fewbits/feedback.h"
#include "fewbits/lattices.h"

namespace fewbits {
namespace {

template <typename T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::device::cpu>;

using Whatever = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;

template <typename T>
View<T> view_of(const Matrix<T>& m) { return {m.data(), m.stride(0), m.stride(1)}; }

template <typename T>
void require_shape(const Matrix<T>& m, int64_t rows, int64_t columns, const char* what) {
    require(static_cast<int64_t>(m.shape(0)) == rows && static_cast<int64_t>(m.shape(1)) == columns, what);
}

const FeedbackKernels& feedback_of(const KernelTable& table) {
    for (size_t f = 0; f < table.family_count; ++f)
        if (table.families[f]->feedback) return *table.families[f]->feedback;
    throw std::invalid_argument("this build has no kernels for error feedback");
}

// (kind, bottom, top, mirror, times), and of a table starts, numbers and codes.
std::unique_ptr<Ladder> ladder_of(const std::tuple<int, int, int, int, float>& kind, const std::vector<float>& starts,
                                  const std::vector<float>& numbers, const std::vector<float>& codes) {
    const auto& [number, bottom, top, mirror, times] = kind;
    require(number >= 0 && number <= 4 && bottom >= 0 && top <= 255, "there is no such ladder");
    require(number != 1 || (!starts.empty() && starts.size() <= 256), "a table has 1 to 256 numbers");
    require(starts.size() == numbers.size() && starts.size() == codes.size(), "a table has a start and a code for each number");
    auto made = std::make_unique<Ladder>();
    *made = {static_cast<LadderKind>(number), bottom, top, static_cast<int>(starts.size()), mirror, times, {}, {}, {}};
    for (size_t k = 0; k < 256 && !starts.empty(); ++k) {
        const size_t own = std::min(k, starts.size() - 1);
        made->starts[k] = k < starts.size() ? starts[k] : INFINITY;
        made->numbers[k] = numbers[own];
        made->codes[k] = codes[own];
    }
    return made;
}

void round_columns(const Ladder& ladder, const Matrix<const float>& w, const Matrix<const float>& scale,
                   const Matrix<const float>& offset, const Matrix<const float>& zero, const Matrix<double>& target,
                   const Matrix<const double>& upper, const Matrix<uint8_t>& codes, const Matrix<double>& errors,
                   const std::string& isa) {
    const FeedbackKernels& feedback = feedback_of(table_of(isa));
    const auto rows = static_cast<int64_t>(w.shape(0)), columns = static_cast<int64_t>(w.shape(1));
    for (const Matrix<const float>* m : {&scale, &offset, &zero}) require_shape(*m, rows, columns, "a parameter per number is wanted");
    require_shape(target, rows, columns, "a target per number is wanted");
    require_shape(codes, rows, columns, "a code per number is wanted");
    require_shape(errors, rows, columns, "an error per number is wanted");
    require_shape(upper, columns, columns, "the factor has the wrong shape");
    require(columns < 2 || upper.stride(1) == 1, "rows of the factor lie apart");
    const Columns all{rows, columns, view_of(w), view_of(scale), view_of(offset), view_of(zero), view_of(target), view_of(upper),
                      view_of(codes), view_of(errors)};
    nb::gil_scoped_release unlocked;
    feedback.round_columns(ladder, all);
}

// (lattice, width, parts, even, ternary, both); step and shift (rows, vectors), weight (columns,).
void round_vectors(const std::tuple<std::string, int, int, bool, bool, bool>& kind, const Matrix<const float>& w,
                   const Matrix<const float>& step, const Matrix<const float>& shift, const Floats& weight,
                   const Matrix<double>& target, const Matrix<const double>& upper, const Matrix<int32_t>& codes,
                   const Matrix<double>& errors, const std::string& isa) {
    const auto& [name, width, parts, even, ternary, both] = kind;
    const PointLadder ladder{name.c_str(), width, parts, even, ternary, both};
    require(lattice(name.c_str()) && lattice(name.c_str())->shape.width == width, "the points of the lattice were not given");
    const bool known = width == 8 ? parts == 1 : width == 4 && (parts == 2 ? even : parts == 1 && !even);
    require(known && (!ternary || name == "IQ1_S"), "there are no such vectors");
    const auto rows = static_cast<int64_t>(w.shape(0)), columns = static_cast<int64_t>(w.shape(1));
    require(columns % ladder.columns() == 0, "columns are no whole vectors");
    const int64_t vectors = columns / ladder.columns();
    require_shape(step, rows, vectors, "a step per vector is wanted");
    require_shape(shift, rows, vectors, "a shift per vector is wanted");
    require_shape(codes, rows, vectors, "a code per vector is wanted");
    require_shape(target, rows, columns, "a target per number is wanted");
    require_shape(errors, rows, columns, "an error per number is wanted");
    require_shape(upper, columns, columns, "the factor has the wrong shape");
    require(upper.stride(1) == 1 && static_cast<int64_t>(weight.shape(0)) == columns, "one weight per column is wanted");
    const FeedbackKernels& feedback = feedback_of(table_of(isa));
    const Vectors all{rows, vectors, view_of(w), view_of(step), view_of(shift), weight.data(), view_of(target), view_of(upper),
                      view_of(codes), view_of(errors)};
    nb::gil_scoped_release unlocked;
    feedback.round_vectors(ladder, all);
}

template <typename T>
View<const T> numbers_of(const Whatever& m) {
    if (m.dtype() != nb::dtype<T>()) return {nullptr, 0, 0};
    return {static_cast<const T*>(m.data()), m.stride(0), m.stride(1)};
}

void add_product(const Matrix<double>& sum, const Matrix<const double>& left, const Whatever& right, bool minus, const std::string& isa) {
    const auto rows = static_cast<int64_t>(left.shape(0)), terms = static_cast<int64_t>(left.shape(1)),
               columns = static_cast<int64_t>(right.shape(1));
    const Numbers numbers{numbers_of<double>(right), numbers_of<float>(right)};
    require(numbers.wide.data || numbers.narrow.data || terms == 0 || columns == 0, "the right factor holds no floats or doubles");
    require(static_cast<int64_t>(right.shape(0)) == terms, "factors of a product do not fit each other");
    require_shape(sum, rows, columns, "a sum per row and column is wanted");
    const FeedbackKernels& feedback = feedback_of(table_of(isa));
    const Product all{rows, terms, columns, view_of(left), numbers, view_of(sum), minus};
    nb::gil_scoped_release unlocked;
    feedback.add_product(all);
}

}  // namespace

void bind_feedback(nb::module_& m) {
    nb::class_<Ladder>(m, "Ladder");
    m.def("ladder", &ladder_of, nb::arg("kind"), nb::arg("starts"), nb::arg("numbers"), nb::arg("codes"));
    m.def("round_columns", &round_columns, nb::arg("ladder"), nb::arg("w"), nb::arg("scale"), nb::arg("offset"), nb::arg("zero"),
          nb::arg("target"), nb::arg("upper"), nb::arg("codes"), nb::arg("errors"), nb::arg("isa") = "");
    m.def("round_vectors", &round_vectors, nb::arg("kind"), nb::arg("w"), nb::arg("step"), nb::arg("shift"), nb::arg("weight"),
          nb::arg("target"), nb::arg("upper"), nb::arg("codes"), nb::arg("errors"), nb::arg("isa") = "");
    m.def("add_product", &add_product, nb::arg("sum"), nb::arg("left"), nb::arg("right"), nb::arg("minus"), nb::arg("isa") = "");
}

}  // namespace fewbits
