// Every instruction set of this machine against the scalar reference: equal bytes, equal numbers, to the last bit.
#include "checks.h"
#include "fewbits/lattices.h"

using namespace fewbits;

namespace {

// The weights of an importance per column, and the codes that they lead to.
void check_weights(const Codec& slow, const Codec& fast, const char* isa, const std::vector<float>& w,
                   std::mt19937& random, const std::string& name) {
    const auto cols = static_cast<int64_t>(w.size()), spans = cols / slow.columns;
    std::vector<float> importance = weights(1, cols, random), x(importance), y(importance);
    expect(!slow.weigh == !fast.weigh, isa, "weigh", name);
    if (slow.weigh && fast.weigh) {
        slow.weigh(w.data(), importance.data(), 1, cols, x.data());
        fast.weigh(w.data(), importance.data(), 1, cols, y.data());
        expect(same_bits(x, y), isa, "weigh", name);
    }
    std::vector<uint8_t> a(static_cast<size_t>(spans * slow.bytes)), b(a.size(), 0xAA);
    slow.encode(w.data(), x.data(), spans, a.data());
    fast.encode(w.data(), x.data(), spans, b.data());
    expect(same_bits(a, b), isa, "weighted encode", name);
}

// The numbers of a row as they lie, f32 or bf16, give the same codes, and the same sums of errors as measured afterwards.
void check_measured(const KernelTable& reference, const Codec& slow, const Codec& fast, const char* isa,
                    std::vector<float> w, int64_t rows, const std::string& name) {
    if (!fast.encode_measured) return;
    std::vector<uint16_t> upper(w.size());
    const int64_t cols = static_cast<int64_t>(w.size()) / rows, spans = cols / slow.columns;
    for (const Number kind : {Number::f32, Number::bf16}) {
        for (size_t i = 0; kind == Number::bf16 && i < w.size(); ++i) {
            uint32_t bits;
            std::memcpy(&bits, &w[i], 4);
            upper[i] = static_cast<uint16_t>(bits >> 16);
            bits &= 0xffff0000u;
            std::memcpy(&w[i], &bits, 4);
        }
        std::vector<uint8_t> a(static_cast<size_t>(rows * spans * slow.bytes)), b(a.size(), 0xAA);
        std::vector<float> back(w.size());
        std::vector<Deviation> found(static_cast<size_t>(rows));
        slow.encode(w.data(), nullptr, rows * spans, a.data());
        slow.decode(a.data(), rows * spans, back.data());
        const void* numbers = kind == Number::bf16 ? static_cast<const void*>(upper.data()) : w.data();
        const float largest = fast.encode_measured(kind, numbers, rows, cols, b.data(), found.data());
        expect(same_bits(a, b), isa, kind == Number::bf16 ? "measured encode of bf16" : "measured encode", name);
        float most = 0.0f;
        for (int64_t r = 0; r < rows; ++r) {
            const Deviation d = reference.deviation(Number::f32, w.data() + r * cols, back.data() + r * cols, cols);
            const Deviation& own = found[static_cast<size_t>(r)];
            expect(d.squared_error == own.squared_error && d.squared == own.squared, isa, "measures", name);
            most = std::fmax(most, d.largest);
        }
        expect(largest == most, isa, "largest magnitude", name);
    }
}

// The same in given weights.
void check_weighted_measured(const KernelTable& reference, const Codec& slow, const Codec& fast, const char* isa,
                             const std::vector<float>& w, const std::vector<float>& given, int64_t rows, const std::string& name) {
    if (!fast.encode_weighted_measured) return;
    const int64_t cols = static_cast<int64_t>(w.size()) / rows, spans = cols / slow.columns;
    std::vector<uint8_t> a(static_cast<size_t>(rows * spans * slow.bytes)), b(a.size(), 0xAA);
    std::vector<float> back(w.size());
    std::vector<Deviation> found(static_cast<size_t>(rows));
    slow.encode(w.data(), given.data(), rows * spans, a.data());
    slow.decode(a.data(), rows * spans, back.data());
    const float largest = fast.encode_weighted_measured(w.data(), given.data(), rows, cols, b.data(), found.data());
    expect(same_bits(a, b), isa, "measured encode by weights", name);
    float most = 0.0f;
    for (int64_t r = 0; r < rows; ++r) {
        const Deviation d = reference.deviation(Number::f32, w.data() + r * cols, back.data() + r * cols, cols);
        const Deviation& own = found[static_cast<size_t>(r)];
        expect(d.squared_error == own.squared_error && d.squared == own.squared, isa, "measures by weights", name);
        most = std::fmax(most, d.largest);
    }
    expect(largest == most, isa, "largest magnitude by weights", name);
}

void check_codec(const KernelTable& reference, const KernelTable& table, const Codec& slow, std::mt19937& random) {
    const Codec* found = codec_of(table, slow.name);
    expect(found && found->weighted == slow.weighted, table.isa, "codec", slow.name);
    if (!found) return;
    const Codec& fast = *found;
    // Searches among thousands of lattice points are slow in scalar code, and slower where a processor is emulated.
    std::vector<int64_t> counts = slow.lattice ? std::vector<int64_t>{1, 3} : std::vector<int64_t>{1, 2, 3, 5, 7, 15, 16, 17, 33, 63, 64};
    if (slow.columns == 1) counts.insert(counts.end(), {255, 256, 257, 513, 771});  // beyond a tile of sums
    for (int kind = 0; kind < kinds; ++kind) {
        for (const int64_t spans : counts) {
            const std::string name = std::string(slow.name) + ", weights of kind " + std::to_string(kind) + ", " +
                                     std::to_string(spans) + " spans";
            if (slow.lattice && kind == 8) continue;  // no fit is promised for numbers that large
            const auto w = weights(kind, spans * slow.columns, random);
            std::vector<uint8_t> a(static_cast<size_t>(spans * slow.bytes)), b(a.size(), 0xAA);
            slow.encode(w.data(), nullptr, spans, a.data());
            fast.encode(w.data(), nullptr, spans, b.data());
            expect(same_bits(a, b), table.isa, "encode", name);
            for (const int64_t rows : {int64_t{1}, spans}) check_measured(reference, slow, fast, table.isa, w, rows, name);
            if (spans % 3 == 0) check_measured(reference, slow, fast, table.isa, w, 3, name);
            if (slow.weighted) check_weights(slow, fast, table.isa, w, random, name);
            const auto given = weights(1, spans * slow.columns, random);
            for (const int64_t rows : {int64_t{1}, spans}) check_weighted_measured(reference, slow, fast, table.isa, w, given, rows, name);
            std::vector<float> x(w.size()), y(w.size(), 1.0f);
            slow.decode(a.data(), spans, x.data());
            fast.decode(a.data(), spans, y.data());
            expect(same_bits(x, y), table.isa, "decode", name);
            const Deviation p = reference.deviation(Number::f32, w.data(), x.data(), static_cast<int64_t>(w.size()));
            const Deviation q = table.deviation(Number::f32, w.data(), x.data(), static_cast<int64_t>(w.size()));
            expect(p.squared_error == q.squared_error && p.squared == q.squared, table.isa, "deviation", name);
        }
    }
}

// How numbers may share scales, by the type of scales that a kind of codes may have.
std::vector<Slab> slabs_of(const FieldCodec& codec) {
    const std::string kind = codec.kind;
    if (kind == "nvfp4") return {{3, 80, 1, 16, ScaleType::e4m3, nullptr, nullptr, 0.0123f}};
    if (kind.rfind("mx", 0) == 0) return {{3, 160, 1, 32, ScaleType::e8m0, nullptr, nullptr, 1.0f}};
    return {{3, 67, 1, 0, ScaleType::f32, nullptr, nullptr, 1.0f},   {5, 64, 1, 16, ScaleType::f16, nullptr, nullptr, 1.0f},
            {3, 70, 1, 7, ScaleType::bf16, nullptr, nullptr, 1.0f},  {11, 96, 8, 32, ScaleType::f32, nullptr, nullptr, 1.0f},
            {4, 131, 0, 0, ScaleType::f32, nullptr, nullptr, 1.0f}};
}

// The fields of one slab: codes and, from byte `codes` on, scales.
struct Fields {
    std::vector<uint8_t> bytes;
    Slab slab;
    Fields(const FieldCodec& codec, Slab shape) : slab(shape) {
        const auto codes = static_cast<size_t>(slab.rows * ((slab.cols * codec.bits + 7) / 8));
        const int64_t lines = slab.scope_rows ? (slab.rows + slab.scope_rows - 1) / slab.scope_rows : 1;
        bytes.resize(codes + static_cast<size_t>(lines * slab.scales_per_line() * scale_bytes(slab.type)));
        slab.codes = bytes.data();
        slab.scales = bytes.data() + codes;
        const float given = 0.01f;
        if (!slab.scope_rows) std::memcpy(slab.scales, &given, sizeof given);
    }
};

void check_field_codec(const KernelTable& table, const FieldCodec& slow, std::mt19937& random) {
    const FieldCodec* found = field_codec_of(table, slow.kind);
    expect(found && found->bits == slow.bits, table.isa, "codec", slow.kind);
    if (!found) return;
    for (int kind = 0; kind < kinds; ++kind)
        for (const Slab& shape : slabs_of(slow)) {
            const std::string name = std::string(slow.kind) + ", weights of kind " + std::to_string(kind) + ", " +
                                     std::to_string(shape.cols) + " columns";
            const auto w = weights(kind, shape.rows * shape.cols, random), importance = weights(1, shape.rows * shape.cols, random);
            for (const float* weighted : {static_cast<const float*>(nullptr), importance.data()}) {
                Fields a(slow, shape), b(slow, shape);
                slow.encode(a.slab, w.data(), weighted);
                found->encode(b.slab, w.data(), weighted);
                expect(same_bits(a.bytes, b.bytes), table.isa, weighted ? "weighted encode" : "encode", name);
                std::vector<float> x(w.size()), y(w.size(), 1.0f);
                slow.decode(a.slab, x.data());
                found->decode(a.slab, y.data());
                expect(same_bits(x, y), table.isa, "decode", name);
            }
        }
}

// Groups of `bits` bits, or of three values, five in a byte; numbers of tables ascend, 0 is among them.
Grouped groups_of(int steps, int bits, bool fives, int64_t group) {
    static const float levels[] = {7.0f, 6.5f, 9.25f};
    const int top = fives ? 2 : (1 << bits) - 1, middle = fives ? 1 : steps == 0 ? 1 << (bits - 1) : 0;
    const int flip = bits % 2 ? middle : 0;
    Grouped made{static_cast<Steps>(steps), bits, fives, group, 0, top, middle, flip, levels, 3, top + 1, {}, {}, {}};
    for (int k = 0; k < most_numbers; ++k) {
        made.table[k] = static_cast<float>(k - 1) / 16.0f;
        made.sorted[k] = k <= top ? made.table[k] : INFINITY;
        made.order[k] = static_cast<uint8_t>(k <= top ? k : top);
    }
    return made;
}

// Groups of every kind of steps and any number of bits, some of which fill no vector and no byte.
void check_groups(const GroupedKernels& slow, const GroupedKernels& fast, const char* isa, std::mt19937& random) {
    for (int steps = 0; steps < 4; ++steps)
        for (int bits = 1; bits <= (steps == 0 ? 9 : 8); ++bits)
            for (const int64_t group : {1, 7, 16, 64, 100}) {
                const bool fives = bits == 9;
                const Grouped format = groups_of(steps, fives ? 2 : bits, fives, group);
                const std::string name = "steps " + std::to_string(steps) + ", bits " + std::to_string(bits) + ", group " +
                                         std::to_string(group);
                const int64_t groups = 3, count = groups * group, bytes = format.packed_bytes(count);
                for (int kind = 0; kind < kinds; ++kind) {
                    const auto w = weights(kind, count, random), importance = weights(1, count, random);
                    std::vector<float> a(3), b(3), x(w.size()), y(w.size());
                    std::vector<uint8_t> p(3), q(3), c(w.size()), d(w.size()), e(static_cast<size_t>(bytes)), f(e);
                    const float* weighted = kind % 2 ? importance.data() : nullptr;
                    slow.fit(format, w.data(), weighted, groups, a.data(), p.data());
                    fast.fit(format, w.data(), weighted, groups, b.data(), q.data());
                    expect(same_bits(a, b) && p == q, isa, "fit", name);
                    slow.encode(format, w.data(), a.data(), p.data(), groups, c.data());
                    fast.encode(format, w.data(), a.data(), p.data(), groups, d.data());
                    expect(c == d, isa, "encode", name);
                    slow.pack(format, c.data(), count, e.data());
                    fast.pack(format, c.data(), count, f.data());
                    expect(e == f, isa, "pack", name);
                    fast.unpack(format, e.data(), count, d.data());
                    expect(c == d, isa, "unpack", name);
                    slow.decode(format, c.data(), a.data(), p.data(), groups, x.data());
                    fast.decode(format, c.data(), a.data(), p.data(), groups, y.data());
                    expect(same_bits(x, y), isa, "decode", name);
                }
            }
}

void check_widen(const KernelTable& reference, const KernelTable& table) {
    std::vector<uint16_t> every(65536);
    for (size_t i = 0; i < every.size(); ++i) every[i] = static_cast<uint16_t>(i);
    for (const Number kind : {Number::f16, Number::bf16}) {
        std::vector<float> x(every.size()), y(every.size());
        reference.widen(kind, every.data(), 65536, x.data());
        table.widen(kind, every.data(), 65536, y.data());
        bool equal = true;
        for (size_t i = 0; i < x.size(); ++i)  // a NaN may change its payload, a number may not change at all
            equal = equal && (std::isnan(x[i]) ? std::isnan(y[i]) : !std::memcmp(&x[i], &y[i], 4));
        expect(equal, table.isa, "widen", kind == Number::f16 ? "all F16 numbers" : "all BF16 numbers");
    }
}

void check_extent(const KernelTable& reference, const KernelTable& table, std::mt19937& random) {
    for (int64_t count = 1; count <= 67; ++count) {
        auto w = weights(0, count, random);
        w[static_cast<size_t>(count / 2)] = count % 3 ? NAN : INFINITY;
        float a = 0, b = 0;
        int64_t m = 0, n = 0;
        reference.extent(Number::f32, w.data(), count, &a, &m);
        table.extent(Number::f32, w.data(), count, &b, &n);
        expect(a == b && m == n && n == 1, table.isa, "extent", std::to_string(count) + " numbers");
    }
}

// Points drawn from the levels of each lattice: what every instruction set must do with a table does not depend on
// which points are in it, and drawn ones come twice, which asks for the first of equals.
void give_drawn_lattices(std::mt19937& random) {
    for (const LatticeShape& shape : lattice_shapes) {
        std::vector<int8_t> points(static_cast<size_t>(shape.count * shape.width));
        for (int8_t& number : points) number = shape.level[random() % static_cast<unsigned>(shape.levels)];
        if (give_lattice(shape.name, points.data(), shape.count, shape.width)) continue;
        ++failures;
        std::printf("FAILED: the lattice %s was not taken\n", shape.name);
    }
}

void check_lines(const LineKernels& slow, const LineKernels& fast, const char* isa, std::mt19937& random) {
    const std::vector<float> levels = {15.0f, 14.25f, 18.5f, 21.0f};
    for (int kind = 0; kind < 2; ++kind)
        for (int type = 0; type < 3; ++type)
            for (const int64_t group : {1, 7, 16, 64, 100}) {
                const Lines format = {static_cast<LineKind>(kind), static_cast<ScaleType>(type), group, 15, 0x1p-10f,
                                      levels.data(), static_cast<int>(levels.size()), 1};
                const std::string name = "kind " + std::to_string(kind) + ", type " + std::to_string(type) + ", group " + std::to_string(group);
                const int64_t groups = 3, count = groups * group;
                for (int of = 0; of < kinds; ++of) {
                    const auto w = weights(of, count, random), importance = weights(1, count, random);
                    const std::vector<float> steps = {0.1f, 0.0f, -0.3f};
                    const std::vector<uint8_t> zeros = {7, 0, 15};
                    std::vector<float> a(3), b(3), p(3), q(3), x(w.size()), y(w.size());
                    std::vector<uint8_t> c(w.size()), d(w.size());
                    const float* weighted = of % 2 ? importance.data() : nullptr;
                    slow.fit(format, w.data(), weighted, groups, steps.data(), zeros.data(), a.data(), p.data());
                    fast.fit(format, w.data(), weighted, groups, steps.data(), zeros.data(), b.data(), q.data());
                    expect(same_bits(a, b) && same_bits(p, q), isa, "fit of a line", name);
                    slow.encode(format, w.data(), a.data(), p.data(), groups, c.data());
                    fast.encode(format, w.data(), a.data(), p.data(), groups, d.data());
                    expect(c == d, isa, "encode on a line", name);
                    slow.decode(format, c.data(), a.data(), p.data(), groups, x.data());
                    fast.decode(format, c.data(), a.data(), p.data(), groups, y.data());
                    expect(same_bits(x, y), isa, "decode on a line", name);
                }
            }
}

}  // namespace

int main() {
    std::mt19937 random(20261121);
    give_drawn_lattices(random);
    const KernelTable& reference = *kernels_of("scalar");
    int compared = 0;
    for (const char* isa : {"avx2", "avx512", "neon"}) {
        const KernelTable* table = kernels_of(isa);
        if (!table) continue;
        ++compared;
        size_t codecs = 0;
        for (size_t f = 0; f < reference.family_count; ++f)
            for (size_t i = 0; i < reference.families[f]->count; ++i, ++codecs)
                check_codec(reference, *table, reference.families[f]->codecs[i], random);
        for (size_t f = 0; f < reference.family_count; ++f)
            for (size_t i = 0; i < reference.families[f]->field_count; ++i, ++codecs)
                check_field_codec(*table, reference.families[f]->field_codecs[i], random);
        for (size_t f = 0; f < reference.family_count; ++f)
            if (reference.families[f]->grouped)
                check_groups(*reference.families[f]->grouped, *table->families[f]->grouped, isa, random);
        for (size_t f = 0; f < reference.family_count; ++f)
            if (reference.families[f]->lines) check_lines(*reference.families[f]->lines, *table->families[f]->lines, isa, random);
        codecs += check_engine(reference, *table, random);
        check_whole(reference, *table, random);
        check_widen(reference, *table);
        check_extent(reference, *table, random);
        std::printf("%s: %zu codecs and packed types compared with scalar\n", isa, codecs);
    }
    check_sampler();
    if (!compared) std::printf("FAILED: no instruction set but scalar on this machine, nothing was compared\n");
    return failures || !compared;
}
