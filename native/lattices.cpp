// The one copy of every lattice, and what searches want to know of its points.
#include "fewbits/lattices.h"

#include <cstring>
#include <memory>
#include <mutex>

namespace fewbits {
namespace {

std::unique_ptr<const Lattice> given[lattice_count];
std::mutex giving;

int index_of(const char* name) {
    for (int i = 0; i < lattice_count; ++i)
        if (!std::strcmp(lattice_shapes[i].name, name)) return i;
    return -1;
}

int level_of(const LatticeShape& shape, int8_t number) {
    for (int l = 0; l < shape.levels; ++l)
        if (shape.level[l] == number) return l;
    return -1;
}

// The number whose digits, in the base of the levels, are the columns of half a point; -1 where one is no level.
int half_of(const LatticeShape& shape, const int8_t* columns) {
    int half = 0;
    for (int e = 0; e < shape.width / 2; ++e) {
        const int level = level_of(shape, columns[e]);
        if (level < 0) return -1;
        half = half * shape.levels + level;
    }
    return half;
}

void sort_by_first(Lattice& lattice) {
    int points = 0, ends = 0;
    for (int h = 0; h < lattice.halves; ++h) {
        lattice.begin[h] = static_cast<uint16_t>(points);
        lattice.fours[h] = static_cast<uint16_t>(ends);
        for (int p = 0; p < lattice.shape.count; ++p)
            if (lattice.first[p] == h) {
                lattice.sorted[points++] = static_cast<uint16_t>(p);
                lattice.ends[ends++] = lattice.second[p];
            }
        for (; ends % 4; ++ends) lattice.ends[ends] = lattice.ends[ends - 1];
    }
    lattice.begin[lattice.halves] = static_cast<uint16_t>(points);
    lattice.fours[lattice.halves] = static_cast<uint16_t>(ends);
}

void find_by_halves(Lattice& lattice) {
    for (int16_t& point : lattice.of_halves) point = -1;
    for (int p = lattice.shape.count - 1; p >= 0; --p)
        lattice.of_halves[lattice.halves * lattice.first[p] + lattice.second[p]] = static_cast<int16_t>(p);
}

}  // namespace

const Lattice* lattice(const char* name) {
    const int i = index_of(name);
    return i < 0 ? nullptr : given[i].get();
}

bool give_lattice(const char* name, const int8_t* points, int64_t count, int64_t width) {
    const int index = index_of(name);
    if (index < 0 || count != lattice_shapes[index].count || width != lattice_shapes[index].width) return false;
    const std::lock_guard<std::mutex> lock(giving);
    const size_t size = static_cast<size_t>(count * width);
    if (given[index]) return !std::memcmp(given[index]->points, points, size);
    auto made = std::make_unique<Lattice>();
    const LatticeShape& shape = made->shape = lattice_shapes[index];
    made->halves = 1;
    for (int e = 0; e < shape.width / 2; ++e) made->halves *= shape.levels;
    std::memcpy(made->points, points, size);
    for (int p = 0; p < shape.count; ++p) {
        const int8_t* point = points + shape.width * p;
        const int first = half_of(shape, point), second = half_of(shape, point + shape.width / 2);
        if (first < 0 || second < 0) return false;
        made->first[p] = static_cast<uint8_t>(first);
        made->second[p] = static_cast<uint8_t>(second);
    }
    sort_by_first(*made);
    find_by_halves(*made);
    given[index] = std::move(made);
    return true;
}

}  // namespace fewbits
