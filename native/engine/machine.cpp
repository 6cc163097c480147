#include "machine.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "fewbits/lattices.h"
#include "groups.h"
#include "products.h"

namespace fewbits {
namespace {

void require(bool condition, const std::string& what) {
    if (!condition) throw std::invalid_argument(what);
}

const std::vector<NamedOperation>& operations() {
    static const std::vector<NamedOperation> all = [] {
        std::vector<NamedOperation> found;
        found.insert(found.end(), row_operations, row_operations + row_operation_count);
        found.insert(found.end(), linear_operations, linear_operations + linear_operation_count);
        found.insert(found.end(), attention_operations, attention_operations + attention_operation_count);
        found.insert(found.end(), expert_operations, expert_operations + expert_operation_count);
        return found;
    }();
    return all;
}

}  // namespace

// ---- building

Machine::Machine(int threads, bool exact_numbers, bool keep, const KernelTable& chosen)
    : table(chosen), kernels(engine_kernels_of(chosen)), pool(threads), exact(exact_numbers), keep_stored(keep) {
    explain_vanished_pages();
}

int64_t Machine::add_weight(const std::string& format, int64_t experts, int64_t rows, int64_t cols, const uint8_t* stored,
                            int64_t bytes, bool mapped) {
    const Codec* codec = codec_of(table, format.c_str());
    if (!codec) codec = group_codec_of(format.c_str());
    require(codec, "the engine has no kernels for weights of the format " + format);
    require(experts > 0 && rows > 0 && cols > 0 && cols % codec->columns == 0, "a weight's columns are not a multiple of its span");
    const int64_t row_bytes = cols / codec->columns * codec->bytes;
    require(bytes == experts * rows * row_bytes, "a weight has the wrong number of bytes");
    const bool half = format == "F16", bfloat = format == "BF16", plain = half || bfloat || format == "F32";
    const PackedType* own = plain ? (bfloat ? kernels.bfloats : half ? kernels.bfloats + 1 : nullptr) : packed_type_of(kernels, format.c_str());
    const PackedType* packed = exact ? nullptr : own;
    require(!codec->lattice || lattice(codec->lattice), "the points of the format " + format + " were not given");
    weights.push_back(std::make_unique<Weight>());
    Weight& w = *weights.back();
    w.format = format;
    w.experts = experts;
    w.rows = rows;
    w.cols = cols;
    w.row_bytes = row_bytes;
    w.stored = stored;
    w.codec = plain ? nullptr : codec;
    w.packed = packed;
    w.kind = half ? Number::f16 : bfloat ? Number::bf16 : Number::f32;
    w.mapped = mapped;
    return static_cast<int64_t>(weights.size()) - 1;
}

int64_t Machine::add_vector(std::vector<float> numbers) {
    vectors.push_back(std::move(numbers));
    return static_cast<int64_t>(vectors.size()) - 1;
}

int64_t Machine::add_buffer(Rows per, int64_t width) {
    require(width > 0, "a buffer has a width");
    buffers.push_back({per, width});
    return static_cast<int64_t>(buffers.size()) - 1;
}

int64_t Machine::add_rope(RopeTable rope_table) {
    require(rope_table.longer.empty() || rope_table.longer.size() == rope_table.frequencies.size(),
            "both lists of frequencies have as many pairs");
    ropes.push_back(std::move(rope_table));
    return static_cast<int64_t>(ropes.size()) - 1;
}

int64_t Machine::add_cache(CacheShape shape) {
    require(shape.heads > 0 && shape.width > 0 && shape.value_width > 0, "a cache has heads and widths");
    caches.push_back(shape);
    return static_cast<int64_t>(caches.size()) - 1;
}

void Machine::add_op(const std::string& name, std::vector<int64_t> numbers, std::vector<float> floats) {
    const auto& all = operations();
    const auto found = std::find_if(all.begin(), all.end(), [&](const NamedOperation& each) { return name == each.name; });
    require(found != all.end(), "there is no operation '" + name + "'");
    require(numbers.size() >= found->least_numbers && floats.size() == found->floats, "operation '" + name + "' takes other arguments");
    program.push_back({static_cast<int>(found - all.begin()), std::move(numbers), std::move(floats)});
}

int64_t Machine::widest() const {
    int64_t most = 32;
    for (const auto& weight : weights) most = std::max(most, weight->cols);
    return (most + rounded_group - 1) / rounded_group * rounded_group;
}

Weight& Machine::weight_at(int64_t which) const {
    require(which >= 0 && which < static_cast<int64_t>(weights.size()), "there is no such weight");
    return *weights[static_cast<size_t>(which)];
}

int64_t Machine::panels_bytes(int64_t which) const { return keep_stored ? 0 : weight_at(which).panels_bytes(); }

void Machine::make_room(Weight& weight) const {
    if (weight.packed && !weight.ready && !keep_stored && !weight.panels.size())
        weight.panels = Memory(static_cast<size_t>(weight.panels_bytes()));
}

void Machine::pack(int64_t which) {
    Weight& weight = weight_at(which);
    const std::lock_guard<std::mutex> turn(busy);
    make_room(weight);
    pool.run([&](int thread) { make_panels(*this, {&weight}, thread); });
}

// ---- running

Session::Session(Machine& owner, int64_t sequence_count, int64_t length, int64_t batch_size, CacheType type)
    : machine(owner), sequences(sequence_count), context(length), most_tokens(batch_size), cache_type(type) {
    require(sequences > 0 && context > 0 && most_tokens > 0, "a session has sequences, a context and a batch");
    for (const CacheShape& shape : machine.caches) {
        const auto count = static_cast<size_t>(sequences * shape.heads * context);
        keys.emplace_back(count * static_cast<size_t>(cached_bytes(cache_type, shape.width)));
        values.emplace_back(count * static_cast<size_t>(cached_bytes(cache_type, shape.value_width)));
    }
    memory_.resize(machine.buffers.size());
    const auto threads = static_cast<size_t>(machine.pool.count());
    own_rounded_.resize(threads);
    own_bfloats_.resize(threads);
    scratch_bytes_.resize(threads);
    scratch_.resize(threads);
    sines.resize(machine.ropes.size());
}

uint8_t* Session::key(int64_t cache, int64_t sequence, int64_t head) const {
    const CacheShape& shape = machine.caches[index(cache)];
    return keys[index(cache)].data() + (sequence * shape.heads + head) * context * cached_bytes(cache_type, shape.width);
}

uint8_t* Session::value(int64_t cache, int64_t sequence, int64_t head) const {
    const CacheShape& shape = machine.caches[index(cache)];
    return values[index(cache)].data() + (sequence * shape.heads + head) * context * cached_bytes(cache_type, shape.value_width);
}

int64_t Session::rows(Rows per) const {
    const auto tokens = static_cast<int64_t>(batch.tokens.size());
    if (per == Rows::outputs) return static_cast<int64_t>(batch.outputs.size());
    return per == Rows::tokens ? tokens : tokens * machine.experts_per_token;
}

float* Session::scratch(int thread, int64_t count) {
    std::vector<float>& own = scratch_[index(thread)];
    if (own.size() < index(count)) own.resize(index(count));
    return own.data();
}

uint8_t* Session::scratch_bytes(int thread, int64_t count) {
    std::vector<uint8_t>& own = scratch_bytes_[index(thread)];
    if (own.size() < index(count)) own.resize(index(count));
    return own.data();
}

Rounded Session::rounded(int64_t count, int64_t cols) { return Rounded::in(rounded_.data(), count, cols); }

Rounded Session::own_rounded(int thread, int64_t cols) {
    std::vector<uint8_t>& own = own_rounded_[index(thread)];
    if (own.size() < index(Rounded::bytes(1, cols))) own.resize(index(Rounded::bytes(1, cols)));
    return Rounded::in(own.data(), 1, cols);
}

uint16_t* Session::own_bfloats(int thread, int64_t cols) {
    std::vector<uint16_t>& own = own_bfloats_[index(thread)];
    if (own.size() < index(cols)) own.resize(index(cols));
    return own.data();
}

void Session::prepare(const Batch& next) {
    const size_t tokens = next.tokens.size();
    require(tokens > 0 && static_cast<int64_t>(tokens) <= most_tokens, "a batch is empty or too large");
    require(next.sequences.size() == tokens && next.positions.size() == tokens, "each token has a sequence and a position");
    for (size_t i = 0; i < tokens; ++i) {
        require(next.sequences[i] >= 0 && next.sequences[i] < sequences, "a batch names a sequence that is not there");
        require(next.positions[i] >= 0 && next.positions[i] < context, "a position lies beyond the context");
    }
    for (const int32_t output : next.outputs) require(output >= 0 && index(output) < tokens, "an output names a token that is not there");
    batch = next;
    stretches.clear();
    for (size_t i = 0; i < tokens; ++i) {
        const bool goes_on = i > 0 && next.sequences[i] == next.sequences[i - 1] && next.positions[i] == next.positions[i - 1] + 1;
        if (goes_on) ++stretches.back().count;
        else stretches.push_back({static_cast<int64_t>(i), 1, next.sequences[i], next.positions[i]});
    }
    int64_t most = 0;
    for (size_t i = 0; i < memory_.size(); ++i) {
        const int64_t count = rows(machine.buffers[i].per);
        const auto bytes = static_cast<size_t>(count * machine.buffers[i].width) * sizeof(float);
        if (memory_[i].size() < bytes) memory_[i] = Memory(bytes);
        most = std::max(most, count);
    }
    const size_t bytes = index(Rounded::bytes(most, machine.widest()));
    if (rounded_.size() < bytes) rounded_.resize(bytes);
    const bool bfloat = std::any_of(machine.weights.begin(), machine.weights.end(), [](const auto& w) { return w->bfloats(); });
    const size_t numbers = bfloat ? index(most * machine.widest()) : 0;
    if (bfloats_.size() < numbers) bfloats_.resize(numbers);
}

void Session::run(const Batch& next) {
    const std::lock_guard<std::mutex> turn(machine.busy);
    prepare(next);
    for (const auto& w : machine.weights) machine.make_room(*w);  // here, where there may be none; threads could not say so
    machine.pool.run([this](int thread) {
        for (const Op& op : machine.program) {
            operations()[index(op.code)].run(*this, op, thread);
            machine.pool.barrier();
        }
    });
}

}  // namespace fewbits
