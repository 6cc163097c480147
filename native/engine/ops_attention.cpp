#include <algorithm>
#include <cmath>

#include "machine.h"

namespace fewbits {
namespace {

// table: sines and cosines of all tokens' positions.
void angles(Session& session, const Op& op, int thread) {
    const RopeTable& table = session.machine.ropes[Session::index(op.numbers[0])];
    std::vector<float>& out = session.sines[Session::index(op.numbers[0])];
    const std::vector<float>& frequencies = table.of_context(session.context);
    const auto pairs = static_cast<int64_t>(frequencies.size()), tokens = session.rows(Rows::tokens);
    if (thread == 0 && out.size() < Session::index(tokens * pairs * 2)) out.resize(Session::index(tokens * pairs * 2));
    session.machine.pool.barrier();
    const Share share = share_of(tokens, thread, session.machine.pool.count());
    for (int64_t t = share.begin; t < share.end; ++t)
        for (int64_t i = 0; i < pairs; ++i) {
            const float angle = static_cast<float>(session.batch.positions[Session::index(t)]) * frequencies[Session::index(i)];
            out[Session::index((t * pairs + i) * 2)] = std::cos(angle) * table.factor;
            out[Session::index((t * pairs + i) * 2 + 1)] = std::sin(angle) * table.factor;
        }
}

// Turns pairs of one head: (i, i + pairs), or neighbours.
void turn(float* x, const float* sines, int64_t pairs, bool neighbours) {
    for (int64_t i = 0; i < pairs; ++i) {
        float &a = x[neighbours ? 2 * i : i], &b = x[neighbours ? 2 * i + 1 : i + pairs];
        const float c = sines[2 * i], s = sines[2 * i + 1], turned = a * c - b * s;
        b = b * c + a * s;
        a = turned;
    }
}

// place, heads, width, table, neighbours
void rope(Session& session, const Op& op, int thread) {
    const Place place{op.numbers[0], op.numbers[1]};
    const auto table = Session::index(op.numbers[4]);
    const auto pairs = static_cast<int64_t>(session.machine.ropes[table].frequencies.size());
    const Share share = share_of(session.rows(session.per(place)), thread, session.machine.pool.count());
    for (int64_t t = share.begin; t < share.end; ++t)
        for (int64_t h = 0; h < op.numbers[2]; ++h)
            turn(session.row(place, t) + h * op.numbers[3], session.sines[table].data() + t * pairs * 2, pairs, op.numbers[5] != 0);
}

// keys, values, cache: what tokens bring, into their sequences' cache.
void store(Session& session, const Op& op, int thread) {
    const Place keys{op.numbers[0], op.numbers[1]}, values{op.numbers[2], op.numbers[3]};
    const int64_t cache = op.numbers[4];
    const CacheShape& shape = session.machine.caches[Session::index(cache)];
    const CacheType type = session.cache_type;
    const Share share = share_of(session.rows(Rows::tokens), thread, session.machine.pool.count());
    for (int64_t t = share.begin; t < share.end; ++t) {
        const int64_t sequence = session.batch.sequences[Session::index(t)], position = session.batch.positions[Session::index(t)];
        for (int64_t h = 0; h < shape.heads; ++h) {
            session.machine.kernels.cache(type, session.row(keys, t) + h * shape.width, shape.width,
                                          session.key(cache, sequence, h) + position * cached_bytes(type, shape.width));
            session.machine.kernels.cache(type, session.row(values, t) + h * shape.value_width, shape.value_width,
                                          session.value(cache, sequence, h) + position * cached_bytes(type, shape.value_width));
        }
    }
}

constexpr int64_t tokens_of_unit = 16;

// Which tokens of which stretch a unit is about.
struct Unit {
    const Stretch* stretch;
    int64_t first, count, head;
};

int64_t units_of(const Stretch& stretch) { return (stretch.count + tokens_of_unit - 1) / tokens_of_unit; }

Unit unit_at(const std::vector<Stretch>& stretches, int64_t heads, int64_t which) {
    int64_t left = which / heads;
    size_t i = 0;
    for (; left >= units_of(stretches[i]); ++i) left -= units_of(stretches[i]);
    const Stretch& stretch = stretches[i];
    return {&stretch, left * tokens_of_unit, std::min(tokens_of_unit, stretch.count - left * tokens_of_unit), which % heads};
}

// query, out, heads, cache, window, sinks, encoder | scale, softcap
void attend(Session& session, const Op& op, int thread) {
    const Place query{op.numbers[0], op.numbers[1]}, out{op.numbers[2], op.numbers[3]};
    const int64_t cache = op.numbers[5];
    const CacheShape& shape = session.machine.caches[Session::index(cache)];
    const int64_t shared = op.numbers[4] / shape.heads;  // queries of one key head
    const float* sinks = op.numbers[7] < 0 ? nullptr : session.machine.vectors[Session::index(op.numbers[7])].data();
    int64_t units = 0;
    for (const Stretch& stretch : session.stretches) units += units_of(stretch);
    ThreadPool& pool = session.machine.pool;
    for (int64_t i = pool.take(); i < units * shape.heads; i = pool.take()) {
        const Unit unit = unit_at(session.stretches, shape.heads, units * shape.heads - 1 - i);  // those with most to see first
        const Stretch& stretch = *unit.stretch;
        Attention task{};
        task.tokens = unit.count;
        task.heads = shared;
        task.width = shape.width;
        task.value_width = shape.value_width;
        task.position = stretch.position + unit.first;
        task.window = op.numbers[6];
        task.everything = op.numbers[8] ? stretch.position + stretch.count : 0;
        task.query = session.row(query, stretch.first + unit.first) + unit.head * shared * shape.width;
        task.query_stride = session.width(query.buffer);
        task.keys = session.key(cache, stretch.sequence, unit.head);
        task.values = session.value(cache, stretch.sequence, unit.head);
        task.type = session.cache_type;
        task.scale = op.floats[0];
        task.softcap = op.floats[1];
        task.sinks = sinks ? sinks + unit.head * shared : nullptr;
        task.out = session.row(out, stretch.first + unit.first) + unit.head * shared * shape.value_width;
        task.out_stride = session.width(out.buffer);
        session.machine.kernels.attend(task, session.scratch(thread, attention_scratch(unit.count * shared, shape.width, shape.value_width)));
    }
}

}  // namespace

const NamedOperation attention_operations[] = {{"angles", angles, 1, 0}, {"rope", rope, 6, 0}, {"store", store, 5, 0},
                                               {"attend", attend, 9, 2}};
const size_t attention_operation_count = sizeof(attention_operations) / sizeof(*attention_operations);

}  // namespace fewbits
