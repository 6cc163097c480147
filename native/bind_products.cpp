// Python's door to sums of products of columns: checks sizes, releases the interpreter lock, calls the kernel.
#include "bindings.h"

#include "arguments.h"
#include "fewbits/products.h"

namespace fewbits {
namespace {

using Halves = nb::ndarray<const uint16_t, nb::ndim<2>, nb::device::cpu>;

bool add_products(const Halves& x, int64_t first, int64_t last, const FloatsOut& sum) {
    const auto columns = static_cast<int64_t>(x.shape(1));
    require(0 <= first && first <= last && last <= columns, "there are no such columns");
    require(static_cast<int64_t>(sum.shape(0)) == columns && static_cast<int64_t>(sum.shape(1)) == columns, "a sum per pair of columns is wanted");
    require(columns < 2 || x.shape(0) == 0 || x.stride(1) == 1, "tokens lie apart");
    const AddProducts add = products_of_bfloat16();
    if (!add) return false;
    const ProductColumns all{x.data(), static_cast<int64_t>(x.shape(0)), x.stride(0), first, last, sum.data(), columns};
    nb::gil_scoped_release unlocked;
    add(all);
    return true;
}

}  // namespace

void bind_products(nb::module_& m) {
    m.def("add_products", &add_products, nb::arg("x"), nb::arg("first"), nb::arg("last"), nb::arg("sum"));
}

}  // namespace fewbits
