#include "convolving.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "team.h"

namespace fewbits {
namespace {

constexpr int64_t positions_of_unit = 192;  // about as many share a copy of their lines
constexpr int64_t positions_at_once = 48;   // have room for their sums
constexpr int64_t few_products = 1 << 16;   // are not worth waking a thread for
constexpr int64_t slack = 64;               // behind the last number, for kernels that read four

int64_t panels_of(const WholeKernels& kernels, int64_t rows) { return (rows + kernels.rows - 1) / kernels.rows; }
int64_t panel_bytes(const WholeKernels& kernels, const Geometry& g) { return kernels.panel_bytes(g.pieces(), g.piece_cols()); }

// How pictures are cut: a unit is a band of lines of one sample, or some samples as they are.
struct Units {
    int64_t lines, bands, samples;  // lines of results, and samples, of a unit; bands of a sample
    int64_t in_lines, in_width;     // of a copy, of each of its samples
    int64_t count;

    explicit Units(const Geometry& g) {
        lines = std::min(g.out_height(), std::max<int64_t>(1, positions_of_unit / g.out_width()));
        bands = (g.out_height() + lines - 1) / lines;
        samples = bands > 1 ? 1 : std::min(g.samples, std::max<int64_t>(1, positions_of_unit / g.positions()));
        in_lines = (lines - 1) * g.stride[0] + (g.kernel[0] - 1) * g.dilation[0] + 1;
        in_width = g.width + 2 * g.padding[1];
        count = (g.samples + samples - 1) / samples * bands;
    }
};

// Where numbers lie in a copy.
struct Places {
    std::vector<int64_t> pieces, tokens;

    Places(const Geometry& g, const Units& units) {
        const int64_t line = units.in_width * g.channels, across = g.whole_lines() ? 1 : g.kernel[1];
        for (int64_t ky = 0; ky < g.kernel[0]; ++ky)
            for (int64_t kx = 0; kx < across; ++kx) pieces.push_back(ky * g.dilation[0] * line + kx * g.dilation[1] * g.channels);
        for (int64_t sample = 0; sample < units.samples; ++sample)
            for (int64_t y = 0; y < units.lines; ++y)
                for (int64_t x = 0; x < g.out_width(); ++x)
                    tokens.push_back((sample * units.in_lines + y * g.stride[0]) * line + x * g.stride[1] * g.channels);
    }
};

// Lines of pictures with their padding, as signed or unsigned numbers.
class Copier {
  public:
    Copier(const WholeKernels& kernels, const Geometry& g, const Units& units, const uint8_t* x)
        : g_(g), units_(units), x_(x), flip_(kernels.signed_inputs == g.is_signed ? 0 : 0x80) {}

    int64_t bytes() const { return units_.samples * units_.in_lines * units_.in_width * g_.channels + slack; }

    void operator()(int64_t sample, int64_t samples, int64_t line, uint8_t* out) const {
        const int64_t bytes = units_.in_width * g_.channels, top = line * g_.stride[0] - g_.padding[0];
        for (int64_t s = sample; s < sample + samples; ++s)
            for (int64_t y = top; y < top + units_.in_lines; ++y, out += bytes)
                if (y < 0 || y >= g_.height) fill(out, bytes);
                else copy(x_ + (s * g_.height + y) * g_.width * g_.channels, out);
    }

  private:
    const Geometry& g_;
    const Units& units_;
    const uint8_t* x_;
    const uint8_t flip_;

    void fill(uint8_t* out, int64_t bytes) const { std::memset(out, g_.zero ^ flip_, static_cast<size_t>(bytes)); }
    void copy(const uint8_t* line, uint8_t* out) const {
        const int64_t edge = g_.padding[1] * g_.channels, bytes = g_.width * g_.channels;
        fill(out, edge);
        for (int64_t i = 0; i < bytes; ++i) out[edge + i] = line[i] ^ flip_;
        fill(out + edge + bytes, edge);
    }
};

// Sums of some positions and rows, to where they belong.
void write(const WholeKernels& kernels, const int32_t* sums, int64_t count, int64_t position, int64_t row, int64_t rows, int64_t all_rows,
           const Results& results) {
    const int64_t at = position * all_rows + row;
    if (results.codes) return kernels.requantize(sums, count, row, rows, results.how, results.codes + at, all_rows);
    for (int64_t i = 0; i < count; ++i)
        for (int64_t r = 0; r < rows; ++r) results.sums[at + i * all_rows + r] = sums[i * rows + r] + results.how.offset[row + r];
}

}  // namespace

int64_t packed_bytes(const WholeKernels& kernels, const Geometry& g) {
    return g.groups * panels_of(kernels, g.group_rows()) * panel_bytes(kernels, g);
}

void pack_rows(const WholeKernels& kernels, const Geometry& g, const int8_t* w, uint8_t* packed) {
    const int64_t rows = g.group_rows();
    for (int64_t group = 0; group < g.groups; ++group)
        for (int64_t row = 0; row < rows; row += kernels.rows, packed += panel_bytes(kernels, g))
            kernels.pack(w + (group * rows + row) * g.cols(), std::min<int64_t>(kernels.rows, rows - row), g.pieces(), g.piece_cols(), packed);
}

int32_t shift_of(const WholeKernels& kernels, bool is_signed, int32_t zero_point) {
    return (kernels.signed_inputs == is_signed ? 0 : is_signed ? -128 : 128) - zero_point;
}

void convolve(const WholeKernels& kernels, const Geometry& g, const uint8_t* x, const uint8_t* packed, const Results& results, int threads) {
    const int64_t rows = g.group_rows(), panels = panels_of(kernels, rows), bytes = panel_bytes(kernels, g);
    const Units units(g);
    const Places places(g, units);
    const Pieces pieces{g.pieces(), g.piece_cols(), places.pieces.data()};
    const Copier copier(kernels, g, units, x);
    const int64_t slices = units.count >= 2 * threads ? 1 : std::min<int64_t>(panels, threads);  // few units are shared by rows
    const int64_t slice = (panels + slices - 1) / slices;
    const bool few = g.samples * g.positions() * g.rows * g.cols() < few_products;
    run_in_team(few ? 1 : threads, [&](ThreadPool& pool, int) {
        std::vector<uint8_t> inputs(static_cast<size_t>(copier.bytes()));
        std::vector<int32_t> sums(static_cast<size_t>(positions_at_once * slice * kernels.rows));
        for (int64_t at = pool.take(); at < units.count * slices; at = pool.take()) {
            const int64_t panel = at % slices * slice, unit = at / slices, row = panel * kernels.rows;
            const int64_t own = std::min(slice * kernels.rows, rows - row);
            const int64_t sample = unit / units.bands * units.samples, line = unit % units.bands * units.lines;
            const int64_t samples = std::min(units.samples, g.samples - sample), lines = std::min(units.lines, g.out_height() - line);
            if (own <= 0) continue;
            copier(sample, samples, line, inputs.data());
            const int64_t position = sample * g.positions() + line * g.out_width(), positions = samples * lines * g.out_width();
            for (int64_t group = 0; group < g.groups; ++group)
                for (int64_t first = 0; first < positions; first += positions_at_once) {
                    const int64_t count = std::min(positions_at_once, positions - first);
                    kernels.multiply(packed + (group * panels + panel) * bytes, own, pieces, inputs.data() + group * g.group_channels(),
                                     places.tokens.data() + first, count, sums.data(), own);
                    write(kernels, sums.data(), count, position + first, group * rows + row, own, g.rows, results);
                }
        }
    });
}

}  // namespace fewbits
