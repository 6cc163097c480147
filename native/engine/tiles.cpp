#include "tiles.h"

#include <algorithm>
#include <vector>

#include "team.h"

namespace fewbits {
namespace {

constexpr int64_t few_numbers = 1 << 15;  // are not worth waking a thread for
constexpr int64_t taken = 1 << 14;        // numbers that a thread reads before it asks for more

}  // namespace

void read_tile(const KernelTable& table, const Tile& tile, int threads, const std::function<ReadRow()>& reader) {
    const Codec& bfloats = *codec_of(table, "BF16");
    const int64_t unit = std::max<int64_t>(1, taken / tile.cols), units = (tile.rows + unit - 1) / unit;
    const bool few = tile.rows * tile.cols < few_numbers || units == 1;
    run_in_team(few ? 1 : threads, [&](ThreadPool& pool, int) {
        const ReadRow read = reader();
        std::vector<float> line(tile.floats ? 0 : static_cast<size_t>(tile.cols));
        for (int64_t at = pool.take(); at < units; at = pool.take())
            for (int64_t row = at * unit; row < std::min(tile.rows, (at + 1) * unit); ++row) {
                if (tile.floats) read(row, tile.floats + row * tile.cols);
                else {
                    read(row, line.data());
                    bfloats.encode(line.data(), nullptr, tile.cols, tile.halves + row * tile.cols * 2);
                }
            }
    });
}

}  // namespace fewbits
