// The machine that runs a program: weights, buffers of numbers per token, and a list of operations, which all threads go
// through together. The program itself is built in Python, from an architecture's facts.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fewbits/engine.h"
#include "fewbits/kernels.h"
#include "memory.h"
#include "threads.h"

namespace fewbits {

// A matrix, or a stack of `experts` of them with `rows` rows each, as it lies in a file; and its panels, once made.
struct Weight {
    std::string format;
    int64_t experts, rows, cols, row_bytes;
    const uint8_t* stored;
    const Codec* codec;        // to floats; nullptr of plain numbers
    const PackedType* packed;  // nullptr: products are made of floats
    Number kind;               // of plain numbers
    bool mapped;               // of a file: pages that are read no more can be let go
    Memory panels;
    bool ready = false;

    int64_t panel_count() const { return (rows + packed->rows - 1) / packed->rows; }  // of one expert
    bool bfloats() const { return packed && packed->multiply_bfloats; }  // its inputs are rounded to bfloat16
    int64_t expert_bytes() const { return panel_count() * packed->panel_bytes(cols); }
    int64_t panels_bytes() const { return packed ? experts * expert_bytes() : 0; }
    const uint8_t* row(int64_t expert, int64_t r) const { return stored + (expert * rows + r) * row_bytes; }
};

// What the rows of a buffer stand for.
enum class Rows : int { tokens = 0, outputs = 1, slots = 2 };  // slots: a row for each expert that a token was sent to

struct Buffer {
    Rows per;
    int64_t width;
};

// Columns of a buffer.
struct Place {
    int64_t buffer, offset;
};

struct RopeTable {
    std::vector<float> frequencies;  // radians per position, one for each pair that turns
    float factor;                    // of the sines and cosines
    std::vector<float> longer;       // the same for sessions whose context is more than `shorter`; empty: there is one list
    int64_t shorter;

    const std::vector<float>& of_context(int64_t context) const { return !longer.empty() && context > shorter ? longer : frequencies; }
};

struct CacheShape {
    int64_t heads, width, value_width;
};

struct Op {
    int code;
    std::vector<int64_t> numbers;
    std::vector<float> floats;
};

class Machine {
  public:
    Machine(int threads, bool exact, bool keep_stored, const KernelTable& table);

    int64_t add_weight(const std::string& format, int64_t experts, int64_t rows, int64_t cols, const uint8_t* stored, int64_t bytes,
                       bool mapped);
    int64_t add_vector(std::vector<float> numbers);
    int64_t add_buffer(Rows per, int64_t width);
    int64_t add_rope(RopeTable table);
    int64_t add_cache(CacheShape shape);
    void add_op(const std::string& name, std::vector<int64_t> numbers, std::vector<float> floats);
    void set_experts_per_token(int64_t count) { experts_per_token = count; }

    const KernelTable& table;
    const EngineKernels& kernels;
    ThreadPool pool;
    std::mutex busy;  // sessions of one machine take turns
    const bool exact;
    const bool keep_stored;  // panels are made anew for each product, and nothing is held
    std::vector<std::unique_ptr<Weight>> weights;
    std::vector<std::vector<float>> vectors;
    std::vector<Buffer> buffers;
    std::vector<RopeTable> ropes;
    std::vector<CacheShape> caches;
    std::vector<Op> program;
    int64_t experts_per_token = 0;

    int64_t widest() const;  // columns of a product
    Weight& weight_at(int64_t which) const;
    int64_t panels_bytes(int64_t which) const;  // of a weight's panels, made or not
    void pack(int64_t which);                   // makes the panels of a weight, as its first product would
    void make_room(Weight& weight) const;       // for its panels
};

// Tokens of one sequence at consecutive positions.
struct Stretch {
    int64_t first, count, sequence, position;
};

struct Batch {
    std::vector<int32_t> tokens, sequences, positions;
    std::vector<int32_t> outputs;  // the tokens that something is wanted of
};

// Which experts each token goes to: slots are in the order of experts.
struct Routing {
    std::vector<int64_t> begins;      // of each expert's slots, and the end
    std::vector<int32_t> token_of;    // of each slot
    std::vector<int32_t> slot_of;     // of each token's choices, (tokens, experts per token)
    std::vector<float> weight_of;     // the same
    std::vector<int32_t> expert_of;   // the same
};

// A machine's caches and buffers for some sequences, and the batch that it works on.
class Session {
  public:
    Session(Machine& machine, int64_t sequences, int64_t context, int64_t batch, CacheType type);
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    // Runs the program over a batch; what it makes stays in the buffers until the next one.
    void run(const Batch& batch);

    Machine& machine;
    const int64_t sequences, context, most_tokens;
    const CacheType cache_type;
    Batch batch;
    std::vector<Stretch> stretches;
    Routing routing;
    std::vector<std::vector<float>> sines;  // of each rope table: (tokens, pairs, cosine and sine)
    std::vector<Memory> keys, values;       // of each cache: (sequences, heads, context, width)

    int64_t rows(Rows per) const;
    float* row(const Place& place, int64_t r) { return reinterpret_cast<float*>(memory_[index(place.buffer)].data()) + r * width(place.buffer) + place.offset; }
    int64_t width(int64_t buffer) const { return machine.buffers[index(buffer)].width; }
    Rows per(const Place& place) const { return machine.buffers[index(place.buffer)].per; }
    // Of a head of a sequence, from position 0 on.
    uint8_t* key(int64_t cache, int64_t sequence, int64_t head) const;
    uint8_t* value(int64_t cache, int64_t sequence, int64_t head) const;
    float* scratch(int thread, int64_t count);  // floats for one thread, until it asks again
    uint8_t* scratch_bytes(int thread, int64_t count);  // the same of bytes, beside them
    Rounded rounded(int64_t count, int64_t cols);              // room for all threads
    Rounded own_rounded(int thread, int64_t cols);  // and for one row of one thread
    uint16_t* bfloats() { return bfloats_.data(); }  // the same of numbers in bfloat16
    uint16_t* own_bfloats(int thread, int64_t cols);
    static size_t index(int64_t i) { return static_cast<size_t>(i); }

  private:
    void prepare(const Batch& next);

    std::vector<Memory> memory_;  // of buffers
    std::vector<uint8_t> rounded_;
    std::vector<uint16_t> bfloats_;
    std::vector<std::vector<uint8_t>> own_rounded_, scratch_bytes_;
    std::vector<std::vector<uint16_t>> own_bfloats_;
    std::vector<std::vector<float>> scratch_;
};

using Operation = void (*)(Session& session, const Op& op, int thread);
struct NamedOperation {
    const char* name;
    Operation run;
    size_t least_numbers, floats;  // that it takes
};

// In ops_*.cpp.
extern const NamedOperation row_operations[], linear_operations[], attention_operations[], expert_operations[];
extern const size_t row_operation_count, linear_operation_count, attention_operation_count, expert_operation_count;

// Parts of a whole of `count` for one of `threads`.
struct Share {
    int64_t begin, end;
};
inline Share share_of(int64_t count, int thread, int threads) { return {count * thread / threads, count * (thread + 1) / threads}; }

}  // namespace fewbits
