// Operations on rows of numbers, each thread with rows of its own.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "machine.h"

namespace fewbits {
namespace {

Place place_at(const Op& op, size_t i) { return {op.numbers[i], op.numbers[i + 1]}; }

const float* vector_at(const Session& session, int64_t which) {
    return which < 0 ? nullptr : session.machine.vectors[Session::index(which)].data();
}

// function(row) for this thread's rows of a place.
template <typename F>
void each_row(Session& session, const Place& place, int thread, F function) {
    const Share share = share_of(session.rows(session.per(place)), thread, session.machine.pool.count());
    for (int64_t r = share.begin; r < share.end; ++r) function(r);
}

void decode_row(const Session& session, const Weight& w, int64_t r, float* out) {
    const uint8_t* stored = w.row(0, r);
    if (w.codec) w.codec->decode(stored, w.cols / w.codec->columns, out);
    else session.machine.table.widen(w.kind, stored, w.cols, out);
}

// out, weight | scale: rows of the weight that tokens name.
void embed(Session& session, const Op& op, int thread) {
    const Place out = place_at(op, 0);
    const Weight& w = *session.machine.weights[Session::index(op.numbers[2])];
    each_row(session, out, thread, [&](int64_t r) {
        float* x = session.row(out, r);
        decode_row(session, w, std::clamp<int64_t>(session.batch.tokens[Session::index(r)], 0, w.rows - 1), x);
        if (op.floats[0] != 1.0f)
            for (int64_t c = 0; c < w.cols; ++c) x[c] *= op.floats[0];
    });
}

// out, weight, first: adds the row of each token's position, counted from `first`; or, where the third number is negative,
// row -1 - first of all tokens.
void add_position(Session& session, const Op& op, int thread) {
    const Place out = place_at(op, 0);
    const Weight& w = *session.machine.weights[Session::index(op.numbers[2])];
    const int64_t first = op.numbers[3];
    each_row(session, out, thread, [&](int64_t r) {
        float* x = session.row(out, r);
        float* own = session.scratch(thread, w.cols);
        const int64_t position = first < 0 ? -1 - first : first + session.batch.positions[Session::index(r)];
        decode_row(session, w, std::min(position, w.rows - 1), own);
        for (int64_t c = 0; c < w.cols; ++c) x[c] += own[c];
    });
}

// out, in, gain, count, heads | epsilon: RMS norm of `heads` stretches of `count` numbers, all by the same gain (or none: -1).
void rms(Session& session, const Op& op, int thread) {
    const Place out = place_at(op, 0), in = place_at(op, 2);
    const float* gain = vector_at(session, op.numbers[4]);
    const int64_t count = op.numbers[5], heads = op.numbers[6];
    each_row(session, out, thread, [&](int64_t r) {
        for (int64_t h = 0; h < heads; ++h)
            session.machine.kernels.rms_norm(session.row(in, r) + h * count, gain, op.floats[0], count, session.row(out, r) + h * count);
    });
}

// out, in, gain, bias, count | epsilon
void layer_norm(Session& session, const Op& op, int thread) {
    const Place out = place_at(op, 0), in = place_at(op, 2);
    const float *gain = vector_at(session, op.numbers[4]), *bias = vector_at(session, op.numbers[5]);
    each_row(session, out, thread, [&](int64_t r) {
        float* own = session.scratch(thread, op.numbers[6]);
        session.machine.kernels.layer_norm(session.row(in, r), gain, bias, op.floats[0], op.numbers[6], own);
        std::copy_n(own, op.numbers[6], session.row(out, r));
    });
}

// out, gate, up, kind, count: act(gate) * up; up.buffer == -1: act(gate)
void gate(Session& session, const Op& op, int thread) {
    const Place out = place_at(op, 0), in = place_at(op, 2), up = place_at(op, 4);
    const auto kind = static_cast<Activation>(op.numbers[6]);
    each_row(session, out, thread, [&](int64_t r) {
        session.machine.kernels.gate(kind, session.row(in, r), up.buffer < 0 ? nullptr : session.row(up, r), op.numbers[7],
                                     session.row(out, r));
    });
}

// out, in, count | factor: out += factor * in
void add(Session& session, const Op& op, int thread) {
    const Place out = place_at(op, 0), in = place_at(op, 2);
    each_row(session, out, thread, [&](int64_t r) {
        float* x = session.row(out, r);
        const float* y = session.row(in, r);
        for (int64_t c = 0; c < op.numbers[4]; ++c) x[c] += op.floats[0] * y[c];
    });
}

// out, count | factor, cap: out *= factor, and then cap * tanh(out / cap) unless cap is 0. Threads share columns: there may
// be one row, of all logits.
void scale(Session& session, const Op& op, int thread) {
    const Place out = place_at(op, 0);
    const float factor = op.floats[0], cap = op.floats[1];
    const Share share = share_of(op.numbers[2], thread, session.machine.pool.count());
    for (int64_t r = 0; r < session.rows(session.per(out)); ++r) {
        float* x = session.row(out, r);
        for (int64_t c = share.begin; c < share.end; ++c) {
            x[c] *= factor;
            if (cap > 0.0f) x[c] = cap * std::tanh(x[c] / cap);
        }
    }
}

// out, gate, count: out *= sigmoid(gate), of one number a row
void weigh(Session& session, const Op& op, int thread) {
    const Place out = place_at(op, 0), in = place_at(op, 2);
    each_row(session, out, thread, [&](int64_t r) {
        float* x = session.row(out, r);
        const float weight = 1.0f / (1.0f + std::exp(-*session.row(in, r)));
        for (int64_t c = 0; c < op.numbers[4]; ++c) x[c] *= weight;
    });
}

// out, in, count: rows of the tokens that something is wanted of
void select(Session& session, const Op& op, int thread) {
    const Place out = place_at(op, 0), in = place_at(op, 2);
    each_row(session, out, thread, [&](int64_t r) {
        std::copy_n(session.row(in, session.batch.outputs[Session::index(r)]), op.numbers[4], session.row(out, r));
    });
}

// out, in, then for each column of out its column of in
void permute(Session& session, const Op& op, int thread) {
    const Place out = place_at(op, 0), in = place_at(op, 2);
    each_row(session, out, thread, [&](int64_t r) {
        float* x = session.row(out, r);
        const float* y = session.row(in, r);
        for (size_t c = 4; c < op.numbers.size(); ++c) x[c - 4] = y[op.numbers[c]];
    });
}

}  // namespace

const NamedOperation row_operations[] = {{"embed", embed, 3, 1}, {"add_position", add_position, 4, 0}, {"rms_norm", rms, 7, 1},
                                         {"layer_norm", layer_norm, 7, 1}, {"gate", gate, 8, 0}, {"add", add, 5, 1},
                                         {"scale", scale, 3, 2}, {"weigh", weigh, 5, 0}, {"select", select, 5, 0},
                                         {"permute", permute, 5, 0}};
const size_t row_operation_count = sizeof(row_operations) / sizeof(*row_operations);

}  // namespace fewbits
