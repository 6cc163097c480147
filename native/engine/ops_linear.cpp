#include "products.h"

namespace fewbits {

// Bytes of a file that a thread keeps in memory beside the panels that it makes of them.
constexpr int64_t most_held = int64_t{1} << 22;

void make_panels(Machine& machine, const std::vector<Weight*>& weights, int thread) {
    const auto waits = [&](const Weight* w) { return w->packed && !w->ready && !machine.keep_stored; };
    if (std::none_of(weights.begin(), weights.end(), waits)) return;
    ThreadPool& pool = machine.pool;
    for (Weight* w : weights) {
        if (!waits(w)) continue;
        const PackedType& type = *w->packed;
        const Share share = share_of(w->experts * w->panel_count(), thread, pool.count());
        const uint8_t* held = nullptr;  // what was read and not let go yet
        for (int64_t i = share.begin; i < share.end; ++i) {
            const int64_t expert = i / w->panel_count(), row = i % w->panel_count() * type.rows;
            const int64_t present = std::min<int64_t>(type.rows, w->rows - row);
            const uint8_t *begin = w->row(expert, row), *end = begin + present * w->row_bytes;
            type.pack(begin, w->row_bytes, present, w->cols, w->panels.data() + i * type.panel_bytes(w->cols));
            if (!held) held = begin;
            if (w->mapped && (end - held >= most_held || i + 1 == share.end)) {
                let_go(held, static_cast<size_t>(end - held));
                held = end;
            }
        }
    }
    pool.barrier();
    if (thread == 0)
        for (Weight* w : weights)
            if (waits(w)) w->ready = true;
    pool.barrier();
}

namespace {

// Rows `begin` .. `end` - 1, rounded into theirs of the input.
void round_rows(const EngineKernels& kernels, const Input& in, int64_t begin, int64_t end, int64_t cols, uint16_t* bfloats) {
    if (begin >= end) return;
    const float* x = in.x + begin * in.x_stride;
    if (in.rounded.codes) kernels.round(x, in.x_stride, in.rounded.token(begin, end - begin));
    for (int64_t t = begin; bfloats && t < end; ++t) kernels.round_bfloats(in.x + t * in.x_stride, cols, bfloats + t * in.bfloats.cols);
}

}  // namespace

Input input_for(Session& session, const std::vector<Weight*>& weights, const float* x, int64_t x_stride, int64_t tokens, int thread) {
    const auto whole = [](const Weight* w) { return w->packed && !w->bfloats(); };
    const bool wholes = std::any_of(weights.begin(), weights.end(), whole);
    const bool floats = std::any_of(weights.begin(), weights.end(), [](const Weight* w) { return w->bfloats(); });
    Input input{x, x_stride, tokens, {}, {}};
    if (!wholes && !floats) return input;
    const bool alone = tokens == 1;
    const int64_t cols = weights[0]->cols, padded = (cols + 31) / 32 * 32;
    uint16_t* const numbers = !floats ? nullptr : alone ? session.own_bfloats(thread, padded) : session.bfloats();
    if (wholes) input.rounded = alone ? session.own_rounded(thread, cols) : session.rounded(tokens, cols);
    input.bfloats = {tokens, padded, numbers};
    ThreadPool& pool = session.machine.pool;
    const Share share = alone ? Share{0, 1} : share_of(tokens, thread, pool.count());
    round_rows(session.machine.kernels, input, share.begin, share.end, cols, numbers);
    if (!alone) pool.barrier();
    return input;
}

namespace {

// Panels of a unit: where they lie, or made now.
const uint8_t* unit_panels(Session& session, const Weight& w, int64_t expert, int64_t first, int64_t present, int thread) {
    const int64_t panel_bytes = w.packed->panel_bytes(w.cols);
    if (!session.machine.keep_stored) return w.panels.data() + expert * w.expert_bytes() + first / w.packed->rows * panel_bytes;
    uint8_t* own = session.scratch_bytes(thread, rows_of_unit / w.packed->rows * panel_bytes);
    for (int64_t r = 0; r < present; r += w.packed->rows)
        w.packed->pack(w.row(expert, first + r), w.row_bytes, std::min<int64_t>(w.packed->rows, present - r), w.cols,
                       own + r / w.packed->rows * panel_bytes);
    return own;
}

}  // namespace

void multiply_unit(Session& session, const Weight& w, int64_t expert, int64_t unit, const Input& input, int thread, float* out,
                   int64_t stride) {
    const EngineKernels& kernels = session.machine.kernels;
    const int64_t first = unit * rows_of_unit, present = std::min(rows_of_unit, w.rows - first);
    if (w.packed) {
        const uint8_t* panels = unit_panels(session, w, expert, first, present, thread);
        if (w.bfloats()) w.packed->multiply_bfloats(panels, present, input.bfloats, out, stride);
        else w.packed->multiply(panels, present, input.rounded, out, stride);
        return;
    }
    const void* rows = w.row(expert, first);
    if (w.codec) {
        auto* decoded = reinterpret_cast<float*>(session.scratch_bytes(thread, present * w.cols * static_cast<int64_t>(sizeof(float))));
        w.codec->decode(w.row(expert, first), present * (w.cols / w.codec->columns), decoded);
        rows = decoded;
    }
    kernels.multiply(w.codec ? Number::f32 : w.kind, rows, present, w.cols, input.x, input.x_stride, input.tokens, out, stride);
}

namespace {

struct Target {
    Weight* weight;
    Place out;
    const float* bias;
    bool adds;
};

std::vector<Target> targets_of(Session& session, const Op& op) {
    std::vector<Target> targets;
    for (size_t i = 2; i + 5 <= op.numbers.size(); i += 5) {
        const int64_t bias = op.numbers[i + 3];
        targets.push_back({session.machine.weights[Session::index(op.numbers[i])].get(), {op.numbers[i + 1], op.numbers[i + 2]},
                           bias < 0 ? nullptr : session.machine.vectors[Session::index(bias)].data(), op.numbers[i + 4] != 0});
    }
    return targets;
}

void write_unit(Session& session, const Target& target, int64_t unit, const Input& input, int thread) {
    const int64_t first = unit * rows_of_unit, present = std::min(rows_of_unit, target.weight->rows - first);
    const int64_t stride = session.width(target.out.buffer);
    if (!target.bias && !target.adds) {
        multiply_unit(session, *target.weight, 0, unit, input, thread, session.row(target.out, 0) + first, stride);
        return;
    }
    float* own = session.scratch(thread, input.tokens * rows_of_unit);
    multiply_unit(session, *target.weight, 0, unit, input, thread, own, rows_of_unit);
    for (int64_t t = 0; t < input.tokens; ++t) {
        float* out = session.row(target.out, t) + first;
        for (int64_t r = 0; r < present; ++r) {
            const float y = own[t * rows_of_unit + r] + (target.bias ? target.bias[first + r] : 0.0f);
            out[r] = target.adds ? out[r] + y : y;
        }
    }
}

// in, then for each weight: weight, out, bias (or -1), whether it is added to what is there. Inputs are all of one width.
void linear(Session& session, const Op& op, int thread) {
    const std::vector<Target> targets = targets_of(session, op);
    const int64_t count = session.rows(session.per(targets[0].out));
    if (count == 0) return;
    std::vector<Weight*> weights;
    int64_t units = 0;
    for (const Target& target : targets) {
        weights.push_back(target.weight);
        units += units_of(*target.weight);
    }
    make_panels(session.machine, weights, thread);
    const Place in{op.numbers[0], op.numbers[1]};
    const Input input = input_for(session, weights, session.row(in, 0), session.width(in.buffer), count, thread);
    for (int64_t unit = session.machine.pool.take(); unit < units; unit = session.machine.pool.take()) {
        int64_t left = unit;
        size_t which = 0;
        for (; left >= units_of(*targets[which].weight); ++which) left -= units_of(*targets[which].weight);
        write_unit(session, targets[which], left, input, thread);
    }
}

}  // namespace

const NamedOperation linear_operations[] = {{"linear", linear, 7, 0}};
const size_t linear_operation_count = 1;

}  // namespace fewbits
