// One packed matrix as Python sees it: made of stored rows, multiplied with tokens.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>

#include "arguments.h"
#include "bindings.h"
#include "engine/layer.h"
#include "engine/openmp.h"
#include "fewbits/engine.h"
#include "fewbits/lattices.h"

namespace fewbits {
namespace {

using Bias = std::optional<Floats>;

const PackedType& required_type(const EngineKernels& kernels, const std::string& name) {
    const PackedType* type = packed_type_of(kernels, name.c_str());
    if (!type) throw std::invalid_argument("weights of the type '" + name + "' are not repacked");
    if (type->lattice && !lattice(type->lattice)) throw std::invalid_argument("the points of the type '" + name + "' were not given");
    return *type;
}

Inputs inputs_of(const std::string& name) {
    constexpr const char* names[] = {"group8", "group16", "token8", "token8_zero"};
    for (int i = 0; i < 4; ++i)
        if (name == names[i]) return static_cast<Inputs>(i);
    throw std::invalid_argument("inputs are group8, group16, token8 or token8_zero, not '" + name + "'");
}

void require_threads(int threads) { require(threads > 0 && threads <= 1024, "products are made by 1 to 1024 threads"); }

void require_shapes(int64_t rows, int64_t cols, const FloatsIn& x, const Bias& bias, const FloatsOut& out, int threads) {
    require(static_cast<int64_t>(x.shape(1)) == cols && static_cast<int64_t>(out.shape(1)) == rows && out.shape(0) == x.shape(0),
            "weights, numbers and results disagree in shape");
    require(!bias || static_cast<int64_t>(bias->size()) == rows, "one bias per row is wanted");
    require_threads(threads);
}

void make(PackedLayer* self, const std::string& type_name, const Bytes& stored, int64_t cols, int threads, const std::string& isa) {
    const KernelTable& table = table_of(isa);
    const PackedType& type = required_type(engine_kernels_of(table), type_name);
    require(stored.shape(0) > 0 && cols > 0 && cols % 32 == 0 && cols % type.span == 0, "columns are not a multiple of the type's span");
    require(static_cast<int64_t>(stored.shape(1)) == cols / type.span * type.span_bytes, "the stored rows have the wrong width");
    require_threads(threads);
    nb::gil_scoped_release unlocked;
    new (self) PackedLayer(table, type, static_cast<int64_t>(stored.shape(0)), cols, stored.data(), threads);
}

void multiply(const PackedLayer& self, const std::string& inputs, const FloatsIn& x, const Bias& bias, const FloatsOut& out, int threads) {
    require_shapes(self.rows(), self.cols(), x, bias, out, threads);
    const Inputs how = inputs_of(inputs);
    nb::gil_scoped_release unlocked;
    self.multiply(how, x.data(), static_cast<int64_t>(x.shape(0)), bias ? bias->data() : nullptr, out.data(), threads);
}

void multiply_rows(const std::string& numbers, const Bytes& w, const FloatsIn& x, const Bias& bias, const FloatsOut& out, int threads, const std::string& isa) {
    const Number kind = number_of(numbers);
    const auto rows = static_cast<int64_t>(w.shape(0)), cols = static_cast<int64_t>(x.shape(1));
    require(static_cast<int64_t>(w.shape(1)) == cols * width_of(kind), "weights and numbers disagree in shape");
    require_shapes(rows, cols, x, bias, out, threads);
    const EngineKernels& kernels = engine_kernels_of(table_of(isa));
    nb::gil_scoped_release unlocked;
    multiply_plain_rows(kernels, kind, w.data(), rows, cols, x.data(), static_cast<int64_t>(x.shape(0)), bias ? bias->data() : nullptr,
                        out.data(), threads);
}

}  // namespace

void bind_layers(nb::module_& m) {
    nb::class_<PackedLayer>(m, "PackedLayer")
        .def("__init__", &make, nb::arg("type"), nb::arg("stored"), nb::arg("cols"), nb::arg("threads"), nb::arg("isa") = "")
        .def("multiply", &multiply, nb::arg("inputs"), nb::arg("x"), nb::arg("bias").none(), nb::arg("out"), nb::arg("threads"))
        .def_prop_ro("bytes", &PackedLayer::bytes);
    m.def("use_openmp_of", &use_openmp_of, nb::arg("path"));
    m.def("multiply_rows", &multiply_rows, nb::arg("numbers"), nb::arg("w"), nb::arg("x"), nb::arg("bias").none(), nb::arg("out"),
          nb::arg("threads"), nb::arg("isa") = "");
}

}  // namespace fewbits
