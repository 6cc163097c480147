// The engine's kernels against the scalar reference, in every bit.
#include "fewbits/engine.h"

#include <algorithm>

#include "../engine/groups.h"
#include "../engine/layer.h"
#include "checks.h"

namespace fewbits {
namespace {

// Rounded rows and the room that they lie in.
struct Numbers {
    std::vector<uint8_t> room;
    Rounded rounded;
    Numbers(const EngineKernels& kernels, const std::vector<float>& x, int64_t tokens)
        : room(static_cast<size_t>(Rounded::bytes(tokens, static_cast<int64_t>(x.size()) / tokens))),
          rounded(Rounded::in(room.data(), tokens, static_cast<int64_t>(x.size()) / tokens)) {
        kernels.round(x.data(), rounded.cols, rounded);
    }
};

void check_rounding(const EngineKernels& slow, const EngineKernels& fast, const char* isa, std::mt19937& random) {
    for (int kind = 0; kind < kinds; ++kind) {
        const auto x = weights(kind, 3 * 96, random);
        const Numbers a(slow, x, 3), b(fast, x, 3);
        expect(a.room == b.room, isa, "round", "numbers of kind " + std::to_string(kind));
    }
}

// Every way of taking inputs, some tokens at a time.
void check_inputs(const EngineKernels& slow, const EngineKernels& fast, const char* isa, std::mt19937& random) {
    const int64_t tokens = 3, cols = 96;
    for (const Inputs how : {Inputs::group8, Inputs::group16, Inputs::token8, Inputs::token8_zero})
        for (int kind = 0; kind < kinds; ++kind) {
            const auto x = weights(kind, tokens * cols, random);
            const auto rounded = [&](const EngineKernels& kernels, int64_t first) {
                std::vector<uint8_t> room(static_cast<size_t>(Rounded::bytes(rows_per_token(how) * tokens, cols) + tokens * 4));
                const Rounded out = Rounded::in(room.data(), rows_per_token(how) * tokens, cols);
                auto* zeros = reinterpret_cast<float*>(room.data() + room.size() - tokens * 4);
                kernels.round_inputs(how, x.data(), cols, 0, first, out, zeros);
                kernels.round_inputs(how, x.data(), cols, first, tokens, out, zeros);
                return room;
            };
            expect(same_bits(rounded(slow, tokens), rounded(fast, 1)), isa, "rounding of inputs",
                   "way " + std::to_string(static_cast<int>(how)) + ", numbers of kind " + std::to_string(kind));
        }
}

// One matrix in one thread and in three.
void check_layers(const KernelTable& reference, const KernelTable& table, std::mt19937& random) {
    const PackedType &slow = *packed_type_of(engine_kernels_of(reference), "nf4"), &fast = *packed_type_of(engine_kernels_of(table), "nf4");
    const int64_t rows = 300, cols = 384, tokens = 11;
    const Codec& codec = *group_codec_of("nf4");
    const auto x = weights(0, tokens * cols, random), bias = weights(0, rows, random);
    std::vector<uint8_t> stored;
    for (int64_t r = 0; r < rows; ++r) {
        const std::vector<float> scale = weights(1, cols / 32, random);
        for (int64_t s = 0; s < cols / 32; ++s) {
            std::vector<uint8_t> span(static_cast<size_t>(codec.bytes));
            for (uint8_t& byte : span) byte = static_cast<uint8_t>(random());
            std::memcpy(span.data(), &scale[static_cast<size_t>(s)], 4);
            std::memcpy(span.data() + 4, &scale[static_cast<size_t>(s)], 4);
            stored.insert(stored.end(), span.begin(), span.end());
        }
    }
    for (const Inputs how : {Inputs::group8, Inputs::group16, Inputs::token8, Inputs::token8_zero}) {
        std::vector<float> one(static_cast<size_t>(tokens * rows)), three(one);
        PackedLayer(reference, slow, rows, cols, stored.data(), 1).multiply(how, x.data(), tokens, bias.data(), one.data(), 1);
        PackedLayer(table, fast, rows, cols, stored.data(), 3).multiply(how, x.data(), tokens, bias.data(), three.data(), 3);
        expect(same_bits(one, three), table.isa, "layer", "way " + std::to_string(static_cast<int>(how)));
    }
}

// Any bytes that stand for finite numbers: more than an encoder would choose.
std::vector<uint8_t> any_spans(const Codec& codec, int64_t spans, std::mt19937& random) {
    std::vector<uint8_t> stored(static_cast<size_t>(spans * codec.bytes));
    std::vector<float> w(static_cast<size_t>(codec.columns));
    for (int64_t s = 0; s < spans; ++s) {
        uint8_t* span = stored.data() + s * codec.bytes;
        do {
            for (int64_t b = 0; b < codec.bytes; ++b) span[b] = static_cast<uint8_t>(random());
            codec.decode(span, 1, w.data());
        } while (!std::all_of(w.begin(), w.end(), [](float x) { return std::fabs(x) < 1e30f; }));
    }
    return stored;
}

std::vector<float> product(const PackedType& type, const std::vector<uint8_t>& stored, int64_t rows, const Rounded& x) {
    const int64_t row_bytes = x.cols / type.span * type.span_bytes, panel = type.panel_bytes(x.cols);
    std::vector<uint8_t> panels(static_cast<size_t>((rows + type.rows - 1) / type.rows * panel));
    for (int64_t r = 0; r < rows; r += type.rows)
        type.pack(stored.data() + r * row_bytes, row_bytes, std::min<int64_t>(type.rows, rows - r), x.cols, panels.data() + r / type.rows * panel);
    std::vector<float> out(static_cast<size_t>(x.tokens * rows), NAN);
    type.multiply(panels.data(), rows, x, out.data(), rows);
    return out;
}

void check_packed(const Codec& codec, const EngineKernels& kernels, const PackedType& slow, const PackedType& fast, const char* isa,
                  std::mt19937& random) {
    const int64_t cols = slow.span == 256 ? 768 : 384;  // more than is unpacked at a time, and no multiple of it
    for (const int64_t rows : {1, 16, 37}) {
        const auto stored = any_spans(codec, rows * (cols / slow.span), random);
        for (const int64_t tokens : {1, 2, 9}) {
            const Numbers x(kernels, weights(0, tokens * cols, random), tokens);
            expect(same_bits(product(slow, stored, rows, x.rounded), product(fast, stored, rows, x.rounded)), isa, "product",
                   std::string(slow.name) + ", " + std::to_string(rows) + " rows, " + std::to_string(tokens) + " tokens");
        }
    }
}

void check_plain(const EngineKernels& slow, const EngineKernels& fast, const char* isa, std::mt19937& random) {
    for (const int64_t cols : {16, 33, 100}) {
        const int64_t rows = 9, tokens = 7;
        const auto w = weights(0, rows * cols, random), x = weights(0, tokens * cols, random);
        std::vector<float> a(static_cast<size_t>(rows * tokens)), b(a);
        slow.multiply(Number::f32, w.data(), rows, cols, x.data(), cols, tokens, a.data(), rows);
        fast.multiply(Number::f32, w.data(), rows, cols, x.data(), cols, tokens, b.data(), rows);
        expect(same_bits(a, b), isa, "product of plain numbers", std::to_string(cols) + " columns");
    }
}

// Numbers in bfloat16, on panels that every instruction set makes alike.
void check_bfloats(const EngineKernels& slow, const EngineKernels& fast, const char* isa, std::mt19937& random) {
    for (const int64_t cols : {32, 33, 1000}) {
        const int64_t rows = 11, tokens = 9, padded = (cols + 31) / 32 * 32;
        const auto x = weights(0, tokens * cols, random);
        const auto products = [&](const EngineKernels& kernels, const PackedType& type, const std::vector<uint16_t>& stored) {
            const int64_t bytes = type.panel_bytes(cols);
            std::vector<uint8_t> panels(static_cast<size_t>((rows + type.rows - 1) / type.rows * bytes));
            for (int64_t r = 0; r < rows; r += type.rows)
                type.pack(reinterpret_cast<const uint8_t*>(stored.data() + r * cols), 2 * cols, std::min<int64_t>(type.rows, rows - r), cols,
                          panels.data() + r / type.rows * bytes);
            std::vector<uint16_t> numbers(static_cast<size_t>(tokens * padded));
            for (int64_t t = 0; t < tokens; ++t) kernels.round_bfloats(x.data() + t * cols, cols, numbers.data() + t * padded);
            std::vector<float> out(static_cast<size_t>(tokens * rows));
            type.multiply_bfloats(panels.data(), rows, {tokens, padded, numbers.data()}, out.data(), rows);
            return out;
        };
        std::vector<uint16_t> stored(static_cast<size_t>(rows * cols));
        for (uint16_t& bits : stored) bits = static_cast<uint16_t>(random() & 0xbfffu);  // no infinities, and no NaN
        for (int type = 0; type < 2; ++type)
            expect(same_bits(products(slow, slow.bfloats[type], stored), products(fast, fast.bfloats[type], stored)), isa,
                   "product in bfloat16", std::string(slow.bfloats[type].name) + ", " + std::to_string(cols) + " columns");
    }
}

void check_rows(const EngineKernels& slow, const EngineKernels& fast, const char* isa, std::mt19937& random) {
    for (const int64_t count : {1, 15, 40, 64, 131}) {
        const auto x = weights(1, count, random), gain = weights(6, count, random), bias = weights(0, count, random);
        const auto compare = [&](const char* what, auto apply) {
            std::vector<float> a(x), b(x);
            apply(slow, a.data());
            apply(fast, b.data());
            expect(same_bits(a, b), isa, what, std::to_string(count) + " numbers");
        };
        compare("RMS norm", [&](const EngineKernels& k, float* out) { k.rms_norm(x.data(), gain.data(), 1e-5f, count, out); });
        compare("layer norm", [&](const EngineKernels& k, float* out) { k.layer_norm(x.data(), gain.data(), bias.data(), 1e-5f, count, out); });
        compare("softmax", [&](const EngineKernels& k, float* out) { k.softmax(out, count); });
        for (int kind = 0; kind < 4; ++kind)
            compare("gate", [&](const EngineKernels& k, float* out) { k.gate(static_cast<Activation>(kind), bias.data(), x.data(), count, out); });
    }
}

std::vector<float> attended(const EngineKernels& kernels, Attention task, const std::vector<float>& numbers) {
    const int64_t positions = task.position + task.tokens, each = cached_bytes(task.type, task.width);
    std::vector<uint8_t> keys(static_cast<size_t>(positions * each)), values(keys);
    for (int64_t p = 0; p < positions; ++p) {
        kernels.cache(task.type, numbers.data() + p * task.width, task.width, keys.data() + p * each);
        kernels.cache(task.type, numbers.data() + (positions - 1 - p) * task.width, task.width, values.data() + p * each);
    }
    std::vector<float> out(static_cast<size_t>(task.tokens * task.heads * task.value_width));
    std::vector<float> scratch(static_cast<size_t>(attention_scratch(task.tokens * task.heads, task.width, task.value_width)));
    task.keys = keys.data();
    task.values = values.data();
    task.out = out.data();
    kernels.attend(task, scratch.data());
    return out;
}

void check_attention(const EngineKernels& slow, const EngineKernels& fast, const char* isa, std::mt19937& random) {
    const int64_t heads = 3, width = 64;
    for (int type = 0; type < 4; ++type)
        for (const int64_t tokens : {1, 5})
            for (const int64_t window : {0, 50}) {
                const int64_t position = 100;
                const auto numbers = weights(0, (position + tokens) * width, random), query = weights(1, tokens * heads * width, random);
                Attention task{};
                task.tokens = tokens;
                task.heads = heads;
                task.width = task.value_width = width;
                task.position = position;
                task.window = window;
                task.query = query.data();
                task.query_stride = task.out_stride = heads * width;
                task.type = static_cast<CacheType>(type);
                task.scale = 0.125f;
                task.softcap = window ? 30.0f : 0.0f;
                task.sinks = window ? query.data() : nullptr;
                expect(same_bits(attended(slow, task, numbers), attended(fast, task, numbers)), isa, "attention",
                       "a cache of type " + std::to_string(type) + ", " + std::to_string(tokens) + " tokens, a window of " + std::to_string(window));
            }
}

}  // namespace

size_t check_engine(const KernelTable& reference, const KernelTable& table, std::mt19937& random) {
    const EngineKernels &slow = engine_kernels_of(reference), &fast = engine_kernels_of(table);
    check_rounding(slow, fast, table.isa, random);
    check_inputs(slow, fast, table.isa, random);
    check_layers(reference, table, random);
    check_plain(slow, fast, table.isa, random);
    check_bfloats(slow, fast, table.isa, random);
    check_rows(slow, fast, table.isa, random);
    check_attention(slow, fast, table.isa, random);
    const auto check = [&](const PackedType& type, const Codec* codec) {
        const PackedType* found = packed_type_of(fast, type.name);
        expect(found && codec, table.isa, "packed type", type.name);
        if (found && codec) check_packed(*codec, slow, type, *found, table.isa, random);
    };
    for (size_t i = 0; i < slow.type_count; ++i) check(slow.types[i], codec_of(reference, slow.types[i].name));
    for (size_t i = 0; i < slow.group_count; ++i) check(slow.groups[i], group_codec_of(slow.groups[i].name));
    return slow.type_count + slow.group_count;
}

}  // namespace fewbits
