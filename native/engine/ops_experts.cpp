// Mixtures of experts: tokens are sent to some experts each; what they bring is sorted by expert, so that an expert's
// weights are gone through once.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "products.h"

namespace fewbits {
namespace {

// How scores become weights of experts.
enum class Scores : int { softmax_all = 0, softmax_chosen = 1, sigmoid = 2 };

void choose(Session& session, const Op& op, int64_t t) {
    const int64_t experts = op.numbers[2], each = session.machine.experts_per_token;
    float* scores = session.row({op.numbers[0], op.numbers[1]}, t);
    const auto how = static_cast<Scores>(op.numbers[3]);
    std::replace_if(scores, scores + experts, [](float s) { return std::isnan(s); }, -3.0e38f);  // of damaged weights: no order
    if (how == Scores::softmax_all) session.machine.kernels.softmax(scores, experts);
    std::vector<int32_t> order(Session::index(experts));
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + each, order.end(),
                      [&](int32_t a, int32_t b) { return scores[a] > scores[b] || (scores[a] == scores[b] && a < b); });
    float* weights = session.routing.weight_of.data() + t * each;
    for (int64_t i = 0; i < each; ++i) weights[i] = scores[order[Session::index(i)]];
    if (how == Scores::softmax_chosen) session.machine.kernels.softmax(weights, each);
    const float sum = std::accumulate(weights, weights + each, 0.0f);
    for (int64_t i = 0; i < each; ++i) {
        session.routing.expert_of[Session::index(t * each + i)] = order[Session::index(i)];
        weights[i] = op.floats[0] * (op.numbers[4] ? weights[i] / sum : weights[i]);
    }
}

void sort_slots(Routing& routing, int64_t tokens, int64_t each, int64_t experts) {
    routing.begins.assign(Session::index(experts + 1), 0);
    for (const int32_t expert : routing.expert_of) ++routing.begins[Session::index(expert + 1)];
    std::partial_sum(routing.begins.begin(), routing.begins.end(), routing.begins.begin());
    std::vector<int64_t> next(routing.begins.begin(), routing.begins.end() - 1);
    for (int64_t i = 0; i < tokens * each; ++i) {
        const int64_t slot = next[Session::index(routing.expert_of[Session::index(i)])]++;
        routing.token_of[Session::index(slot)] = static_cast<int32_t>(i / each);
        routing.slot_of[Session::index(i)] = static_cast<int32_t>(slot);
    }
}

// scores, experts, how, normalized | factor: which experts each token goes to, and with which weights.
void route(Session& session, const Op& op, int thread) {
    const int64_t tokens = session.rows(Rows::tokens), each = session.machine.experts_per_token;
    Routing& routing = session.routing;
    if (thread == 0) {
        const auto slots = Session::index(tokens * each);
        routing.token_of.resize(slots);
        routing.slot_of.resize(slots);
        routing.weight_of.resize(slots);
        routing.expert_of.resize(slots);
    }
    session.machine.pool.barrier();
    const Share share = share_of(tokens, thread, session.machine.pool.count());
    for (int64_t t = share.begin; t < share.end; ++t) choose(session, op, t);
    session.machine.pool.barrier();
    if (thread == 0) sort_slots(routing, tokens, each, op.numbers[2]);
}

// out (per slot), in (per token), count: rows in the order of experts.
void scatter(Session& session, const Op& op, int thread) {
    const Place out{op.numbers[0], op.numbers[1]}, in{op.numbers[2], op.numbers[3]};
    const Share share = share_of(session.rows(Rows::slots), thread, session.machine.pool.count());
    for (int64_t s = share.begin; s < share.end; ++s)
        std::copy_n(session.row(in, session.routing.token_of[Session::index(s)]), op.numbers[4], session.row(out, s));
}

// Adds an expert's numbers to the columns of a unit.
void add_bias(Session& session, const Place& out, const float* bias, int64_t count, int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
        float* y = session.row(out, slot);
        for (int64_t r = 0; r < count; ++r) y[r] += bias[r];
    }
}

// in, weight, out, bias (or -1): each expert's rows by its matrix.
void expert_linear(Session& session, const Op& op, int thread) {
    const Place in{op.numbers[0], op.numbers[1]}, out{op.numbers[3], op.numbers[4]};
    Weight& w = *session.machine.weights[Session::index(op.numbers[2])];
    const float* bias = op.numbers[5] < 0 ? nullptr : session.machine.vectors[Session::index(op.numbers[5])].data();
    ThreadPool& pool = session.machine.pool;
    make_panels(session.machine, std::vector<Weight*>{&w}, thread);
    const int64_t slots = session.rows(Rows::slots), stride = session.width(out.buffer);
    const Input all = input_for(session, {&w}, session.row(in, 0), session.width(in.buffer), slots, thread);
    for (int64_t i = pool.take(); i < w.experts * units_of(w); i = pool.take()) {
        const int64_t expert = i / units_of(w), unit = i % units_of(w);
        const int64_t begin = session.routing.begins[Session::index(expert)], end = session.routing.begins[Session::index(expert + 1)];
        if (begin == end) continue;
        const Place columns{out.buffer, out.offset + unit * rows_of_unit};
        multiply_unit(session, w, expert, unit, all.part(begin, end - begin), thread, session.row(columns, begin), stride);
        const int64_t present = std::min(rows_of_unit, w.rows - unit * rows_of_unit);
        if (bias) add_bias(session, columns, bias + expert * w.rows + unit * rows_of_unit, present, begin, end);
    }
}

// out (per token), in (per slot), count, adds: out becomes, or has added to it, the weighted sum of what the token's
// experts say.
void gather(Session& session, const Op& op, int thread) {
    const Place out{op.numbers[0], op.numbers[1]}, in{op.numbers[2], op.numbers[3]};
    const int64_t each = session.machine.experts_per_token;
    const Share share = share_of(session.rows(Rows::tokens), thread, session.machine.pool.count());
    for (int64_t t = share.begin; t < share.end; ++t) {
        float* x = session.row(out, t);
        if (!op.numbers[5]) std::fill_n(x, op.numbers[4], 0.0f);
        for (int64_t i = t * each; i < (t + 1) * each; ++i) {
            const float* y = session.row(in, session.routing.slot_of[Session::index(i)]);
            const float weight = session.routing.weight_of[Session::index(i)];
            for (int64_t c = 0; c < op.numbers[4]; ++c) x[c] += weight * y[c];
        }
    }
}

}  // namespace

const NamedOperation expert_operations[] = {{"route", route, 5, 1}, {"scatter", scatter, 5, 0}, {"expert_linear", expert_linear, 6, 0},
                                            {"gather", gather, 6, 0}};
const size_t expert_operation_count = sizeof(expert_operations) / sizeof(*expert_operations);

}  // namespace fewbits
