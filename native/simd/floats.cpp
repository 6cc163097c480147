// Plain floating-point numbers of 32 and 16 bits.
#include "deviation.h"
#include "fewbits/families.h"

namespace fewbits {
namespace {

// What is stored of numbers: a vector of them, which comes back as the result, or one.
struct Single {
    using Stored = float;
    static constexpr Number kind = Number::f32;
    static Vec store(Vec x, Stored* p) {
        x.store(p);
        return x;
    }
    static Stored stored(float x) { return x; }
};
struct HalfOf {
    using Stored = uint16_t;
    static constexpr Number kind = Number::f16;
    static Vec store(Vec x, Stored* p) {
        store_half(x, p);
        return load_half(p);
    }
    static Stored stored(float x) { return float_to_half(x); }
};
struct BfloatOf {
    using Stored = uint16_t;
    static constexpr Number kind = Number::bf16;
    static Vec store(Vec x, Stored* p) { return store_bfloat(x, p); }
    static Stored stored(float x) { return float_to_bfloat(x); }
};

template <typename Kept>
void encode(const float* w, const float*, int64_t count, uint8_t* stored) {
    auto* out = reinterpret_cast<typename Kept::Stored*>(stored);
    int64_t i = 0;
    for (; i + Vec::lanes <= count; i += Vec::lanes) Kept::store(Vec::load(w + i), out + i);
    for (; i < count; ++i) out[i] = Kept::stored(w[i]);
}

template <typename Kept>
void decode(const uint8_t* stored, int64_t count, float* w) { widen(Kept::kind, stored, count, w); }

// `count` tiles, stored and measured in the same pass.
template <typename Kept, int count, typename Numbers>
void store_tiles(const Numbers* w, typename Kept::Stored* out, Lanes* sums) {
    TileSums tiles[count];
    for (int i = 0; i < tile; i += lanes)
        for (int t = 0; t < count; ++t) {
            const int at = tile * t + i;
            for (int v = 0; v < vectors; ++v) {
                const Vec x = load_numbers(w + at + Vec::lanes * v);
                tiles[t].add(v, x, Kept::store(x, out + at + Vec::lanes * v));
            }
            __builtin_prefetch(reinterpret_cast<const char*>(w + at) + ahead);
        }
    for (int t = 0; t < count; ++t) {
        sums->largest = max(sums->largest, tiles[t].largest);
        if (tiles[t].fit_single()) {
            tiles[t].close(sums);
            continue;
        }
        float back[tile];
        widen(Kept::kind, out + tile * t, tile, back);
        add_tile_in_double(w + tile * t, back, sums);
    }
}

template <typename Kept, typename Numbers>
Deviation store_row(const Numbers* w, int64_t cols, uint8_t* stored) {
    using Stored = typename Kept::Stored;
    auto* out = reinterpret_cast<Stored*>(stored);
    Lanes sums;
    int64_t i = 0;
    for (; i + 2 * tile <= cols; i += 2 * tile) store_tiles<Kept, 2>(w + i, out + i, &sums);
    for (; i < cols; i += tile) {
        const int64_t present = cols - i < tile ? cols - i : tile;
        Numbers rest[tile] = {};
        Stored rest_stored[tile];
        std::memcpy(rest, w + i, static_cast<size_t>(present) * sizeof(Numbers));
        store_tiles<Kept, 1>(rest, rest_stored, &sums);
        std::memcpy(out + i, rest_stored, static_cast<size_t>(present) * sizeof(Stored));
    }
    return total(sums);
}

template <typename Kept>
float encode_measured(Number kind, const void* numbers, int64_t rows, int64_t cols, uint8_t* stored, Deviation* deviations) {
    float largest = 0.0f;
    for (int64_t row = 0; row < rows; ++row, stored += cols * static_cast<int64_t>(sizeof(typename Kept::Stored))) {
        deviations[row] = kind == Number::bf16 ? store_row<Kept>(static_cast<const Bfloat*>(numbers) + row * cols, cols, stored)
                                               : store_row<Kept>(static_cast<const float*>(numbers) + row * cols, cols, stored);
        largest = deviations[row].largest > largest ? deviations[row].largest : largest;
    }
    return largest;
}

void encode_f64(const float* w, const float*, int64_t count, uint8_t* stored) {
    auto* out = reinterpret_cast<double*>(stored);
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<double>(w[i]);
}

void decode_f64(const uint8_t* stored, int64_t count, float* w) {
    const auto* in = reinterpret_cast<const double*>(stored);
    for (int64_t i = 0; i < count; ++i) w[i] = static_cast<float>(in[i]);
}

template <typename Kept>
constexpr Codec codec(const char* name) {
    return {name, 1, sizeof(typename Kept::Stored), encode<Kept>, decode<Kept>, nullptr, false, nullptr, encode_measured<Kept>};
}

constexpr Codec codecs[] = {
    {"F64", 1, 8, encode_f64, decode_f64},
    codec<Single>("F32"),
    codec<HalfOf>("F16"),
    codec<BfloatOf>("BF16"),
};

}  // namespace

FEWBITS_FAMILY(floats, codecs)

}  // namespace fewbits
