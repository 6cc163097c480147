// Layers in whole numbers: each instruction set has the sums and codes of scalar.
#include "../engine/adding.h"
#include "../engine/convolving.h"
#include "checks.h"

namespace fewbits {
namespace {

template <class T>
std::vector<T> bytes(int64_t count, std::mt19937& random) {
    std::vector<T> found(static_cast<size_t>(count));
    for (T& each : found) each = static_cast<T>(random());
    return found;
}

struct Layer {
    const Geometry& g;
    const std::vector<uint8_t>& x;
    const std::vector<int8_t>& w;
    const std::vector<double>&factor, &half;
    int32_t zero;

    std::vector<int32_t> offsets(const WholeKernels& kernels) const {
        std::vector<int32_t> found(static_cast<size_t>(g.rows));
        for (int64_t row = 0; row < g.rows; ++row) {
            for (int64_t k = 0; k < g.cols(); ++k) found[static_cast<size_t>(row)] += w[static_cast<size_t>(row * g.cols() + k)];
            found[static_cast<size_t>(row)] *= shift_of(kernels, g.is_signed, zero);
        }
        return found;
    }

    void run(const WholeKernels& kernels, std::vector<int32_t>& sums, std::vector<uint8_t>& codes) const {
        std::vector<uint8_t> packed(static_cast<size_t>(packed_bytes(kernels, g)));
        pack_rows(kernels, g, w.data(), packed.data());
        const auto offset = offsets(kernels);
        sums.assign(static_cast<size_t>(g.samples * g.positions() * g.rows), 0);
        codes.assign(sums.size(), 0);
        const Requantization how{offset.data(), factor.data(), half.data(), {-5, -120, 110}};
        convolve(kernels, g, x.data(), packed.data(), {nullptr, sums.data(), how}, 1);
        convolve(kernels, g, x.data(), packed.data(), {codes.data(), nullptr, how}, 1);
    }
};

void check_layer(const WholeKernels& slow, const WholeKernels& fast, const char* isa, const Geometry& g, std::mt19937& random) {
    const auto x = bytes<uint8_t>(g.samples * g.height * g.width * g.channels, random);
    const auto w = bytes<int8_t>(g.rows * g.cols(), random);
    std::vector<double> factor(static_cast<size_t>(g.rows)), half(factor.size());
    for (size_t row = 0; row < factor.size(); ++row) {
        factor[row] = static_cast<double>((1 << 21) + random() % (1 << 21)) / (1LL << 34);
        half[row] = static_cast<double>(row) - 3.5;
    }
    const Layer layer{g, x, w, factor, half, g.is_signed ? static_cast<int8_t>(g.zero) : g.zero};
    std::vector<int32_t> sums, other_sums;
    std::vector<uint8_t> codes, other_codes;
    layer.run(slow, sums, codes);
    layer.run(fast, other_sums, other_codes);
    const std::string name = std::to_string(g.rows) + " rows of " + std::to_string(g.cols());
    expect(sums == other_sums, isa, "sums of whole numbers", name);
    expect(codes == other_codes, isa, "codes of whole numbers", name);
}

void check_added(const WholeKernels& slow, const WholeKernels& fast, const char* isa, bool is_signed, std::mt19937& random) {
    const auto one = bytes<uint8_t>(1003, random), other = bytes<uint8_t>(1003, random);
    const Addition how{{is_signed, !is_signed}, {17, -9}, {2097155.0, 4194304.0}, 1.0 / (1 << 24), 0.375, {-20, -108, 110}};
    std::vector<uint8_t> codes(one.size()), found(one.size());
    add_codes(slow, one.data(), other.data(), 1003, how, codes.data(), 1);
    add_codes(fast, one.data(), other.data(), 1003, how, found.data(), 1);
    expect(codes == found, isa, "sums of codes", is_signed ? "signed first" : "unsigned first");
}

}  // namespace

void check_whole(const KernelTable& reference, const KernelTable& table, std::mt19937& random) {
    const WholeKernels &slow = whole_kernels_of(reference), &fast = whole_kernels_of(table);
    for (bool is_signed : {false, true}) {
        const Geometry layers[] = {
            {37, 1, 1, 70, 75, 1, {1, 1}, {1, 1}, {0, 0}, {1, 1}, 7, is_signed},      // linear
            {2, 9, 8, 5, 19, 1, {3, 3}, {1, 2}, {1, 1}, {1, 1}, 130, is_signed},      // lines in one piece
            {1, 7, 9, 12, 24, 2, {3, 2}, {2, 1}, {2, 1}, {1, 2}, 200, is_signed},     // groups, and points left out
            {1, 20, 20, 3, 70, 1, {5, 5}, {1, 1}, {2, 2}, {1, 1}, 0, is_signed},      // bands of lines
        };
        for (const Geometry& g : layers) check_layer(slow, fast, table.isa, g, random);
        check_added(slow, fast, table.isa, is_signed, random);
    }
}

}  // namespace fewbits
