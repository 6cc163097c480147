// Attention over cached keys and values, a tile of keys at a time, with the running softmax of Milakov and Gimelshein
// (https://arxiv.org/abs/1805.02867): nothing of the context's length is held.
#pragma once
#include "fewbits/layouts.h"
#include "floats.h"

namespace fewbits {
namespace {

// ---- cached numbers

struct CachedQ8 {
    half_bits d;
    int8_t q[32];
};
struct CachedQ4 {
    half_bits d;
    uint8_t q[16];  // element e (< 16) in the low half of byte e, e + 16 in the high half; code - 8
};
static_assert(sizeof(CachedQ8) == 34 && sizeof(CachedQ4) == 18, "as cached_bytes says");

inline float largest_magnitude(const float* x, int64_t count) {
    float largest = 0.0f;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(x[i]));
    return largest;
}

inline void cache_q8(const float* x, CachedQ8& out) {
    const float d = largest_magnitude(x, 32) / 127.0f, inverse = d > 0.0f ? 1.0f / d : 0.0f;
    out.d = float_to_half(d);
    for (int e = 0; e < 32; ++e) out.q[e] = static_cast<int8_t>(std::nearbyint(x[e] * inverse));
}

// The number of largest magnitude becomes code 0, that is -8: the scale has its sign, turned.
inline void cache_q4(const float* x, CachedQ4& out) {
    float extreme = 0.0f;
    for (int e = 0; e < 32; ++e)
        if (std::fabs(x[e]) > std::fabs(extreme)) extreme = x[e];
    const float d = extreme / -8.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f;
    out.d = float_to_half(d);
    const auto code = [&](float v) { return static_cast<uint8_t>(std::min(15.0f, std::nearbyint(v * inverse) + 8.0f)); };
    for (int e = 0; e < 16; ++e) out.q[e] = static_cast<uint8_t>(code(x[e]) | code(x[e + 16]) << 4);
}

inline void cache_numbers(CacheType type, const float* x, int64_t count, uint8_t* out) {
    if (type == CacheType::f32) std::memcpy(out, x, static_cast<size_t>(count) * sizeof(float));
    if (type == CacheType::f16)
        for (int64_t i = 0; i < count; ++i) reinterpret_cast<uint16_t*>(out)[i] = float_to_half(x[i]);
    for (int64_t i = 0; i < count / 32; ++i) {
        if (type == CacheType::q8_0) cache_q8(x + 32 * i, reinterpret_cast<CachedQ8*>(out)[i]);
        if (type == CacheType::q4_0) cache_q4(x + 32 * i, reinterpret_cast<CachedQ4*>(out)[i]);
    }
}

template <typename V>
void read_halves_of_cache(const uint8_t* in, int64_t count, float* x) {
    const auto* bits = reinterpret_cast<const uint16_t*>(in);
    int64_t i = 0;
    for (; i + V::lanes <= count; i += V::lanes) load_half(bits + i).store(x + i);
    for (; i < count; ++i) x[i] = half_to_float(bits[i]);
}

template <typename V>
void read_cache(CacheType type, const uint8_t* in, int64_t count, float* x) {
    if (type == CacheType::f32) std::memcpy(x, in, static_cast<size_t>(count) * sizeof(float));
    if (type == CacheType::f16) read_halves_of_cache<V>(in, count, x);
    for (int64_t i = 0; i < count / 32; ++i) {
        if (type == CacheType::q8_0) {
            const CachedQ8& span = reinterpret_cast<const CachedQ8*>(in)[i];
            const float d = half_to_float(span.d);
            for (int e = 0; e < 32; ++e) x[32 * i + e] = d * static_cast<float>(span.q[e]);
        }
        if (type == CacheType::q4_0) {
            const CachedQ4& span = reinterpret_cast<const CachedQ4*>(in)[i];
            const float d = half_to_float(span.d);
            for (int e = 0; e < 16; ++e) {
                x[32 * i + e] = d * static_cast<float>((span.q[e] & 15) - 8);
                x[32 * i + 16 + e] = d * static_cast<float>((span.q[e] >> 4) - 8);
            }
        }
    }
}

// ---- queries over tiles of keys

// What is known of one query after some tiles: the largest score, and the sum of exp(score - largest). `shrink` is what
// sums of earlier tiles are multiplied with.
struct Running {
    float largest, sum, shrink;
};

// Room for queries (count, width), their sums of values, their scores of one tile, and what is known of them.
struct Queries {
    int64_t count;
    float *numbers, *sums, *scores;
    Running* running;
};

constexpr float no_score = -3.0e38f;

// function(first, how many) for three queries at a time, or two where that leaves none alone.
template <typename F>
void some_at_once(int64_t count, F function) {
    int64_t q = 0;
    for (; count - q == 3 || count - q > 4; q += 3) function(q, std::integral_constant<int, 3>{});
    for (; q + 2 <= count; q += 2) function(q, std::integral_constant<int, 2>{});
    if (q < count) function(q, std::integral_constant<int, 1>{});
}

// Products of some queries and four keys; whole sixteens of columns. Lanes of each vector's width go one after another, so
// that all sums stay in registers.
template <typename V, int queries>
void four_scores(const float* query, const float* keys, int64_t width, float* scores) {
    constexpr int parts = 16 / V::lanes;
    Sixteen<V> lanes[queries][4];
    for (int part = 0; part < parts; ++part) {
        V sums[queries][4];
        for (auto& row : sums)
            for (V& sum : row) sum = V::all(0.0f);
        for (int64_t c = part * V::lanes; c < width; c += 16) {
            V key[4];
            for (int j = 0; j < 4; ++j) key[j] = V::load(keys + j * width + c);
            for (int q = 0; q < queries; ++q) {
                const V own = V::load(query + q * width + c);
                for (int j = 0; j < 4; ++j) sums[q][j] = plus_product(sums[q][j], own, key[j]);
            }
        }
        for (int q = 0; q < queries; ++q)
            for (int j = 0; j < 4; ++j) lanes[q][j].v[part] = sums[q][j];
    }
    for (int q = 0; q < queries; ++q)
        across_four(lanes[q][0].folded(), lanes[q][1].folded(), lanes[q][2].folded(), lanes[q][3].folded(), scores + q * attention_tile);
}

template <typename V>
void score(const Queries& queries, const float* keys, int64_t count, int64_t width) {
    int64_t j = 0;
    if (width % 16 == 0)
        for (; j + 4 <= count; j += 4) {
            some_at_once(queries.count, [&](int64_t q, auto together) {
                four_scores<V, decltype(together)::value>(queries.numbers + q * width, keys + j * width, width,
                                                          queries.scores + q * attention_tile + j);
            });
        }
    for (; j < count; ++j)
        for (int64_t q = 0; q < queries.count; ++q)
            queries.scores[q * attention_tile + j] = dot<V>(queries.numbers + q * width, keys + j * width, width);
}

template <typename V>
float largest_of(const float* scores) {
    V most = V::load(scores);
    for (int64_t j = V::lanes; j < attention_tile; j += V::lanes) most = max(most, V::load(scores + j));
    float lane[16];
    most.store(lane);
    return *std::max_element(lane, lane + V::lanes);
}

// Scores of a tile become exp(score - largest); keys outside of `from` .. `to` - 1 are not seen.
template <typename V>
void weigh(const Attention& task, int64_t from, int64_t to, float* scores, Running& running) {
    const V scale = V::all(task.scale), cap = V::all(task.softcap);
    map_numbers<V>(scores + from, to - from, scores + from, [&](V s, int64_t) {
        return task.softcap > 0.0f ? cap * hyperbolic_tangent(s * scale / cap) : s * scale;
    });
    std::fill(scores, scores + from, no_score);
    std::fill(scores + to, scores + attention_tile, no_score);
    const float largest = std::max(running.largest, largest_of<V>(scores));
    float earlier[1] = {running.largest};
    running.shrink = running.largest == largest ? 1.0f : exponentials<V>(earlier, 1, largest);
    running.sum = running.sum * running.shrink + exponentials<V>(scores, attention_tile, largest);
    running.largest = largest;
}

// Adds the values of a tile, as `queries` scores weigh them, to `parts` vectors of columns of each query's sums.
template <typename V, int count, int parts>
void add_columns(const Queries& all, int64_t first, const float* values, int64_t keys, int64_t width, int64_t column) {
    V sums[count][parts];
    for (int q = 0; q < count; ++q)
        for (int i = 0; i < parts; ++i)
            sums[q][i] = V::load(all.sums + (first + q) * width + column + i * V::lanes) * V::all(all.running[first + q].shrink);
    const float* weights = all.scores + first * attention_tile;
    for (int64_t j = 0; j < keys; ++j) {
        V value[parts];
        for (int i = 0; i < parts; ++i) value[i] = V::load(values + j * width + column + i * V::lanes);
        for (int q = 0; q < count; ++q) {
            const V weight = V::all(weights[q * attention_tile + j]);
            for (int i = 0; i < parts; ++i) sums[q][i] = plus_product(sums[q][i], weight, value[i]);
        }
    }
    for (int q = 0; q < count; ++q)
        for (int i = 0; i < parts; ++i) sums[q][i].store(all.sums + (first + q) * width + column + i * V::lanes);
}

template <typename V, int count>
void add_values(const Queries& all, int64_t first, const float* values, int64_t keys, int64_t width) {
    int64_t c = 0;
    for (; c + 4 * V::lanes <= width; c += 4 * V::lanes) add_columns<V, count, 4>(all, first, values, keys, width, c);
    for (; c + V::lanes <= width; c += V::lanes) add_columns<V, count, 1>(all, first, values, keys, width, c);
    for (; c < width; ++c)
        for (int q = 0; q < count; ++q) {
            float& sum = all.sums[(first + q) * width + c];
            sum *= all.running[first + q].shrink;
            for (int64_t j = 0; j < keys; ++j) sum = std::fma(all.scores[(first + q) * attention_tile + j], values[j * width + c], sum);
        }
}

// Numbers of a tile: where they lie, or read into `scratch`.
template <typename V>
const float* tile_numbers(CacheType type, const uint8_t* cached, int64_t first, int64_t count, int64_t width, float* scratch) {
    const uint8_t* in = cached + first * cached_bytes(type, width);
    if (type == CacheType::f32) return reinterpret_cast<const float*>(in);
    read_cache<V>(type, in, count * width, scratch);
    return scratch;
}

// Which keys of a tile the query of a token sees: none where the second number is not above the first.
struct Seen {
    int64_t from, to;
};
inline Seen seen_of(const Attention& task, int64_t token, int64_t tile, int64_t count) {
    if (task.everything) return {0, count};
    const int64_t own = task.position + token, first = task.window && own + 1 > task.window ? own + 1 - task.window : 0;
    return {std::max<int64_t>(0, first - tile), std::min(count, own + 1 - tile)};
}

template <typename V>
void attend_tile(const Attention& task, const Queries& queries, const float* keys, const float* values, int64_t tile, int64_t count) {
    score<V>(queries, keys, count, task.width);
    for (int64_t q = 0; q < queries.count; ++q) {
        const Seen seen = seen_of(task, q / task.heads, tile, count);
        float* scores = queries.scores + q * attention_tile;
        if (seen.from < seen.to) {
            weigh<V>(task, seen.from, seen.to, scores, queries.running[q]);
        } else {
            std::fill_n(scores, attention_tile, 0.0f);
            queries.running[q].shrink = 1.0f;
        }
    }
    some_at_once(queries.count, [&](int64_t q, auto together) {
        add_values<V, decltype(together)::value>(queries, q, values, count, task.value_width);
    });
}

template <typename V>
void finish_query(const Attention& task, int64_t head, const Running& running, const float* sums, float* out) {
    float sum = running.sum, scale = 1.0f;
    if (task.sinks) {
        const float largest = std::max(running.largest, task.sinks[head]);
        float apart[2] = {running.largest, task.sinks[head]};
        exponentials<V>(apart, 2, largest);
        sum = sum * apart[0] + apart[1];
        scale = apart[0];
    }
    const V factor = V::all(sum > 0.0f ? scale / sum : 0.0f);
    map_numbers<V>(sums, task.value_width, out, [&](V v, int64_t) { return v * factor; });
}

template <typename V>
void attend(const Attention& task, float* scratch) {
    float* keys_scratch = scratch;
    float* values_scratch = keys_scratch + attention_tile * task.width;
    Queries queries{task.tokens * task.heads, values_scratch + attention_tile * task.value_width, nullptr, nullptr, nullptr};
    queries.sums = queries.numbers + queries.count * task.width;
    queries.scores = queries.sums + queries.count * task.value_width;
    queries.running = reinterpret_cast<Running*>(queries.scores + queries.count * attention_tile);
    for (int64_t t = 0; t < task.tokens; ++t)
        std::copy_n(task.query + t * task.query_stride, task.heads * task.width, queries.numbers + t * task.heads * task.width);
    std::fill_n(queries.sums, queries.count * task.value_width, 0.0f);
    std::fill_n(queries.running, queries.count, Running{no_score, 0.0f, 1.0f});
    const int64_t end = task.everything ? task.everything : task.position + task.tokens;
    for (int64_t tile = seen_of(task, 0, 0, end).from / attention_tile * attention_tile; tile < end; tile += attention_tile) {
        const int64_t count = std::min(attention_tile, end - tile);
        const float* keys = tile_numbers<V>(task.type, task.keys, tile, count, task.width, keys_scratch);
        const float* values = tile_numbers<V>(task.type, task.values, tile, count, task.value_width, values_scratch);
        attend_tile<V>(task, queries, keys, values, tile, count);
    }
    for (int64_t q = 0; q < queries.count; ++q)
        finish_query<V>(task, q % task.heads, queries.running[q], queries.sums + q * task.value_width,
                        task.out + q / task.heads * task.out_stride + q % task.heads * task.value_width);
}

}  // namespace
}  // namespace fewbits
