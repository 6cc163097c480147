// Where the stranger keeps its tables.
#include "lattices.h"

#include <cstring>

namespace fewbits {

PackedPoints iq1_s_points, iq2_xxs_points, iq2_xs_points, iq2_s_points, iq3_xxs_points, iq3_s_points;

namespace {

struct Place {
    const char* name;
    PackedPoints* points;
    int64_t size;
};

const Place places[] = {
    {"IQ1_S", &iq1_s_points, 2048 * 8 / 4}, {"IQ2_XXS", &iq2_xxs_points, 256 * 8 / 4},
    {"IQ2_XS", &iq2_xs_points, 512 * 8 / 4}, {"IQ2_S", &iq2_s_points, 1024 * 8 / 4},
    {"IQ3_XXS", &iq3_xxs_points, 256 * 4 / 2}, {"IQ3_S", &iq3_s_points, 512 * 4 / 2},
};

}  // namespace

bool give_reader_points(const char* name, const uint8_t* bytes, int64_t size, const int8_t* numbers, int64_t count) {
    for (const Place& place : places) {
        if (std::strcmp(place.name, name)) continue;
        if (size != place.size || count > 8) return false;
        place.points->apart = count <= 4 ? 2 : 4;
        std::memcpy(place.points->number, numbers, static_cast<size_t>(count));
        std::memcpy(place.points->bytes, bytes, static_cast<size_t>(size));
        return true;
    }
    return false;
}

}  // namespace fewbits
