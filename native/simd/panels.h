// Panels: `panel_rows` rows of a matrix, span by span of columns. Of each span come first the scales and minimums, row
// beside row, and then its codes, 32 columns at a time, as planes of 4, 2 or 1 bits, or of whole bytes. In a plane, a
// vector has the same four columns of all rows, so that nothing has to be added up across a vector.
#pragma once
#include "../packed/types.h"
#include "quads.h"

namespace fewbits {
namespace {

template <typename Type>
struct Panel {
    static constexpr int groups = Type::span / Type::group, tiles = Type::span / 32;
    static constexpr int halves = 32 / Type::group;  // groups of a tile
    static constexpr bool floats = Type::form == Form::single || Type::form == Form::line;
    static constexpr bool steps = Type::form == Form::steps || Type::form == Form::affine;
    static constexpr bool own_scales = !steps && Type::form != Form::whole;
    static constexpr bool minimums = has_minimums<Type>(), whole_minimums = Type::form == Form::affine || Type::form == Form::zeros;
    static constexpr bool wide_minimums = minimums && Type::form != Form::zeros;
    static constexpr int wide = floats ? 4 : 2;                                         // bytes of a d, and of an m
    static constexpr int wide_scales = (own_scales ? groups : 1) * panel_rows * wide;   // of all d, and of all m
    static constexpr int narrow_scales = groups * panel_rows;                           // of all scales, and of all minimums
    static constexpr int header = wide_scales * (1 + wide_minimums) + narrow_scales * (steps + whole_minimums);
    static constexpr int tile_bytes = Type::bits * quad_bytes;
    static constexpr int span_bytes = header + tiles * tile_bytes;
    static constexpr int number_bits = fewbits::number_bits<Type>();
    static constexpr bool is_signed = number_bits == 8 && signed_bytes;
    // What is left to be taken from products of codes.
    static constexpr int offset = is_signed ? 0 : Type::offset;

    static int64_t bytes(int64_t cols) { return cols / Type::span * span_bytes; }

    // Where in a span the scales of group g are, and its codes.
    static const uint8_t* d(const uint8_t* span, int g) { return span + (own_scales ? g * panel_rows * wide : 0); }
    static const uint8_t* m(const uint8_t* span, int g) { return d(span, g) + wide_scales; }
    static const uint8_t* scale(const uint8_t* span, int g) { return span + wide_scales * (1 + wide_minimums) + g * panel_rows; }
    static const uint8_t* minimum(const uint8_t* span, int g) { return scale(span, g) + (steps ? narrow_scales : 0); }
    static const uint8_t* codes(const uint8_t* span, int tile) { return span + header + tile * tile_bytes; }

    static Vec scales(const uint8_t* span, int g) {
        const uint8_t* own = d(span, g);
        if constexpr (floats) return Vec::load(reinterpret_cast<const float*>(own));
        else if constexpr (Type::form == Form::bfloat) return load_bfloat(reinterpret_cast<const uint16_t*>(own));
        else if constexpr (steps) return halves_at(own) * Wholes::widened(scale(span, g)).floats();
        else return halves_at(own);
    }
    static Vec lows(const uint8_t* span, int g) {
        if constexpr (Type::form == Form::line) return Vec::load(reinterpret_cast<const float*>(m(span, g)));
        else if constexpr (Type::form == Form::zeros) return halves_at(d(span, g)) * Wholes::widened(minimum(span, g)).floats();
        else if constexpr (Type::form == Form::affine) return halves_at(m(span, g)) * Wholes::widened(minimum(span, g)).floats();
        else return halves_at(m(span, g));
    }
    static Vec halves_at(const uint8_t* own) { return in_units(load_half(reinterpret_cast<const uint16_t*>(own))); }
    static Vec in_units(Vec d) {
        if constexpr (Type::unit == 1.0f) return d;
        else return d * Vec::all(Type::unit);
    }

    // What codes are looked up in.
    static Lookup lookup() {
        int8_t table[16];
        for (int code = 0; code < 16; ++code) table[code] = static_cast<int8_t>(Type::table[code] + (is_signed ? 0 : Type::offset));
        return Lookup(table);
    }
};

// ---- packing

inline uint32_t word_at(const uint8_t* codes, int step) {
    uint32_t word;
    std::memcpy(&word, codes + 4 * step, 4);
    return word;
}
inline void put_word(uint8_t* plane, int vector, int row, uint32_t word) {
    std::memcpy(plane + vector * quad_bytes + 4 * row, &word, 4);
}

// Bits `from` .. of the 32 codes of one row, into a plane of four, two or one bits.
inline void pack_fours(const uint8_t* codes, int row, uint8_t* plane) {
    for (int j = 0; j < 4; ++j)
        put_word(plane, j, row, (word_at(codes, j) & 0x0f0f0f0fu) | (word_at(codes, j + 4) & 0x0f0f0f0fu) << 4);
}
inline void pack_twos(const uint8_t* codes, int row, int from, uint8_t* plane) {
    for (int j = 0; j < 2; ++j) {
        uint32_t word = 0;
        for (int k = 0; k < 4; ++k) word |= (word_at(codes, j + 2 * k) >> from & 0x03030303u) << (2 * k);
        put_word(plane, j, row, word);
    }
}
inline void pack_ones(const uint8_t* codes, int row, int from, uint8_t* plane) {
    uint32_t word = 0;
    for (int k = 0; k < 8; ++k) word |= (word_at(codes, k) >> from & 0x01010101u) << k;
    put_word(plane, 0, row, word);
}

template <int bits, bool is_signed>
void pack_codes(const uint8_t* codes, int row, uint8_t* tile) {
    if constexpr (bits == 8) {
        for (int j = 0; j < 8; ++j) put_word(tile, j, row, word_at(codes, j) ^ (is_signed ? 0x80808080u : 0u));
    } else {
        constexpr int fours = bits / 4, twos = bits % 4 / 2, ones = bits % 2;
        if (fours) pack_fours(codes, row, tile);
        if (twos) pack_twos(codes, row, 4 * fours, tile + 4 * fours * quad_bytes);
        if (ones) pack_ones(codes, row, 4 * fours + 2 * twos, tile + (4 * fours + 2 * twos) * quad_bytes);
    }
}

template <typename Type>
void pack_scales(const Parts& parts, int row, uint8_t* span) {
    using P = Panel<Type>;
    const auto put = [&](const uint8_t* at, const void* number, size_t bytes) {
        std::memcpy(const_cast<uint8_t*>(at) + static_cast<size_t>(row) * bytes, number, bytes);
    };
    for (int g = 0; g < P::groups; ++g) {
        const bool first = P::own_scales || g == 0;
        if (first) put(P::d(span, g), P::floats ? static_cast<const void*>(&parts.s[g % 2]) : &parts.d[g % 4], P::wide);
        if (first && P::wide_minimums) put(P::m(span, g), P::floats ? static_cast<const void*>(&parts.low[g % 2]) : &parts.m[g % 4], P::wide);
        if (P::steps) put(P::scale(span, g), &parts.scale[g], 1);
        if (P::whole_minimums) put(P::minimum(span, g), &parts.minimum[g], 1);
    }
}

template <typename Type>
void pack(const uint8_t* stored, int64_t row_bytes, int64_t present, int64_t cols, uint8_t* panel) {
    using P = Panel<Type>;
    if (present < panel_rows) std::memset(panel, 0, static_cast<size_t>(P::bytes(cols)));
    for (int64_t s = 0; s < cols / Type::span; ++s)
        for (int row = 0; row < present; ++row) {
            typename Type::Span in;
            std::memcpy(&in, stored + row * row_bytes + s * static_cast<int64_t>(sizeof in), sizeof in);
            uint8_t codes[Type::span];
            Parts parts;
            Type::read(in, codes, parts);
            uint8_t* span = panel + s * P::span_bytes;
            pack_scales<Type>(parts, row, span);
            for (int tile = 0; tile < P::tiles; ++tile)
                pack_codes<Type::bits, P::is_signed>(codes + 32 * tile, row, const_cast<uint8_t*>(P::codes(span, tile)));
        }
}

// ---- reading

// The codes of columns 4 * step .. of a tile.
template <typename Type, int step>
Quads codes_at(const uint8_t* tile) {
    constexpr int bits = Type::bits;
    if constexpr (bits == 8) {
        return Quads::load(tile + step * quad_bytes);
    } else {
        constexpr int fours = bits / 4, twos = bits % 4 / 2, ones = bits % 2;
        Quads codes = Quads::all(0);
        if constexpr (fours) codes = shifted<4 * (step / 4)>(Quads::load(tile + step % 4 * quad_bytes)) & Quads::all(15);
        if constexpr (twos) {
            const Quads pairs = Quads::load(tile + (4 * fours + step % 2) * quad_bytes);
            codes = codes | (shifted<2 * (step / 2) - 4 * fours>(pairs) & Quads::all(3 << (4 * fours)));
        }
        if constexpr (ones) {
            constexpr int at = 4 * fours + 2 * twos;
            codes = codes | (shifted<step - at>(Quads::load(tile + at * quad_bytes)) & Quads::all(1 << at));
        }
        return codes;
    }
}

// The same as products take them.
template <typename Type, int step>
Quads quads_at(const uint8_t* tile, const Lookup& lookup) {
    const Quads codes = codes_at<Type, step>(tile);
    return Type::tabled ? lookup(codes) : codes;
}

}  // namespace
}  // namespace fewbits
