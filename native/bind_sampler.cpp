// Python's door to the choice of tokens: checks sizes and calls the sampler.
#include <nanobind/stl/optional.h>

#include <optional>

#include "arguments.h"
#include "bindings.h"
#include "engine/sampler.h"

namespace fewbits {
namespace {

using Tokens = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Mask = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr size_t most_tokens = size_t{1} << 23;  // of a vocabulary: the sums of weights fit into 64 bits

int32_t sample(Sampler& sampler, const Floats& logits, const Tokens& history, const std::optional<Mask>& allowed) {
    require(logits.size() > 0 && logits.size() < most_tokens, "a vocabulary has 1 to 2^23 tokens");
    require(!allowed || allowed->size() * 32 >= logits.size(), "one bit per token is wanted");
    nb::gil_scoped_release unlocked;
    return sampler.sample(logits.data(), static_cast<int64_t>(logits.size()), history.data(),
                          static_cast<int64_t>(history.size()), allowed ? allowed->data() : nullptr);
}

}  // namespace

void bind_sampler(nb::module_& m) {
    m.attr("nothing_allowed") = nothing_allowed;
    m.attr("not_numbers") = not_numbers;
    nb::class_<Sampler>(m, "Sampler")
        .def("__init__",
             [](Sampler* self, double temperature, int64_t top_k, double top_p, double min_p, double repetition_penalty,
                int64_t repetition_window, uint64_t seed) {
                 new (self) Sampler({temperature, top_k, top_p, min_p, repetition_penalty, repetition_window, seed});
             },
             nb::kw_only(), nb::arg("temperature"), nb::arg("top_k"), nb::arg("top_p"), nb::arg("min_p"),
             nb::arg("repetition_penalty"), nb::arg("repetition_window"), nb::arg("seed"))
        .def("sample", &sample, nb::arg("logits"), nb::arg("history"), nb::arg("allowed").none());
}

}  // namespace fewbits
