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

// ---- one query over tiles of keys

// What is known of one query after some tiles: the largest score, and sums of exp(score - largest).
struct Running {
    float largest, sum;
};

// Products of a query and four keys.
template <typename V>
void four_products(const float* query, const float* keys, int64_t width, float* out) {
    Sixteen<V> sums[4];
    for (auto& sum : sums) sum = Sixteen<V>::all(0.0f);
    for (int64_t c = 0; c < width; c += 16) {
        const Sixteen<V> own = Sixteen<V>::load(query + c);
        for (int j = 0; j < 4; ++j) sums[j].add_product(own, Sixteen<V>::load(keys + j * width + c));
    }
    across_four(sums[0].folded(), sums[1].folded(), sums[2].folded(), sums[3].folded(), out);
}

template <typename V>
void scores_of(const Attention& task, const float* query, const float* keys, int64_t count, float* scores) {
    const V scale = V::all(task.scale);
    int64_t j = 0;
    if (task.width % 16 == 0)
        for (; j + 4 <= count; j += 4) four_products<V>(query, keys + j * task.width, task.width, scores + j);
    for (; j < count; ++j) scores[j] = dot<V>(query, keys + j * task.width, task.width);
    map_numbers<V>(scores, count, scores, [&](V s, int64_t) {
        const V scaled = s * scale;
        return task.softcap > 0.0f ? V::all(task.softcap) * hyperbolic_tangent(scaled / V::all(task.softcap)) : scaled;
    });
}

template <typename V>
void add_values(const float* weights, const float* values, int64_t count, int64_t width, float shrink, float* out) {
    constexpr int together = V::lanes >= 8 ? 4 : 1;
    int64_t c = 0;
    const auto columns = [&](auto parts) {
        constexpr int n = decltype(parts)::value;
        V sums[n];
        for (int i = 0; i < n; ++i) sums[i] = V::load(out + c + i * V::lanes) * V::all(shrink);
        for (int64_t j = 0; j < count; ++j) {
            const V weight = V::all(weights[j]);
            for (int i = 0; i < n; ++i) sums[i] = plus_product(sums[i], weight, V::load(values + j * width + c + i * V::lanes));
        }
        for (int i = 0; i < n; ++i) sums[i].store(out + c + i * V::lanes);
        c += n * V::lanes;
    };
    while (c + together * V::lanes <= width) columns(std::integral_constant<int, together>{});
    while (c + V::lanes <= width) columns(std::integral_constant<int, 1>{});
    for (; c < width; ++c) {
        float sum = out[c] * shrink;
        for (int64_t j = 0; j < count; ++j) sum = std::fma(weights[j], values[j * width + c], sum);
        out[c] = sum;
    }
}

// Keys `from` .. `to` - 1 of a tile, for one query.
template <typename V>
void attend_tile(const Attention& task, const float* query, const float* keys, const float* values, int64_t from, int64_t to,
                 Running& running, float* out) {
    float scores[attention_tile];
    const int64_t count = to - from;
    scores_of<V>(task, query, keys + from * task.width, count, scores);
    const float largest = std::max(running.largest, *std::max_element(scores, scores + count));
    float apart[1] = {running.largest};
    const float shrink = exponentials<V>(apart, 1, largest);
    running.sum = running.sum * shrink + exponentials<V>(scores, count, largest);
    running.largest = largest;
    add_values<V>(scores, values + from * task.value_width, count, task.value_width, shrink, out);
}

template <typename V>
void finish_query(const Attention& task, int64_t head, const Running& running, float* out) {
    float sum = running.sum, scale = 1.0f;
    if (task.sinks) {
        const float largest = std::max(running.largest, task.sinks[head]);
        float apart[2] = {running.largest, task.sinks[head]};
        exponentials<V>(apart, 2, largest);
        sum = sum * apart[0] + apart[1];
        scale = apart[0];
    }
    const V factor = V::all(sum > 0.0f ? scale / sum : 0.0f);
    map_numbers<V>(out, task.value_width, out, [&](V v, int64_t) { return v * factor; });
}

// Numbers of a tile: where they lie, or read into `scratch`.
template <typename V>
const float* tile_numbers(CacheType type, const uint8_t* cached, int64_t first, int64_t count, int64_t width, float* scratch) {
    const uint8_t* in = cached + first * cached_bytes(type, width);
    if (type == CacheType::f32) return reinterpret_cast<const float*>(in);
    read_cache<V>(type, in, count * width, scratch);
    return scratch;
}

template <typename V>
void attend(const Attention& task, float* scratch) {
    float* keys_scratch = scratch;
    float* values_scratch = keys_scratch + attention_tile * task.width;
    Running* running = reinterpret_cast<Running*>(values_scratch + attention_tile * task.value_width);
    const auto first_of = [&](int64_t t) { return task.window && t + 1 > task.window ? t + 1 - task.window : 0; };
    for (int64_t q = 0; q < task.tokens * task.heads; ++q) {
        running[q] = {-3.0e38f, 0.0f};
        std::fill_n(task.out + q / task.heads * task.out_stride + q % task.heads * task.value_width, task.value_width, 0.0f);
    }
    const int64_t end = task.everything ? task.everything : task.position + task.tokens;
    const int64_t begin = task.everything ? 0 : first_of(task.position) / attention_tile * attention_tile;
    for (int64_t tile = begin; tile < end; tile += attention_tile) {
        const int64_t count = std::min(attention_tile, end - tile);
        const float* keys = tile_numbers<V>(task.type, task.keys, tile, count, task.width, keys_scratch);
        const float* values = tile_numbers<V>(task.type, task.values, tile, count, task.value_width, values_scratch);
        for (int64_t t = 0; t < task.tokens; ++t) {
            const int64_t own = task.position + t;
            const int64_t from = task.everything ? 0 : std::max<int64_t>(0, first_of(own) - tile);
            const int64_t to = task.everything ? count : std::min(count, own + 1 - tile);
            if (from >= to) continue;
            for (int64_t h = 0; h < task.heads; ++h)
                attend_tile<V>(task, task.query + t * task.query_stride + h * task.width, keys, values, from, to,
                               running[t * task.heads + h], task.out + t * task.out_stride + h * task.value_width);
        }
    }
    for (int64_t q = 0; q < task.tokens * task.heads; ++q)
        finish_query<V>(task, q % task.heads, running[q], task.out + q / task.heads * task.out_stride + q % task.heads * task.value_width);
}

}  // namespace
}  // namespace fewbits
