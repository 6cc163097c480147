// The engine as Python sees it: a machine that is told its weights and its program once, and sessions that run it.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arguments.h"
#include "bindings.h"
#include "engine/generation.h"
#include "engine/machine.h"
#include "fewbits/lattices.h"

namespace fewbits {
namespace {

using Raw = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using RawOut = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const PackedType& required_type(const std::string& format, const std::string& isa) {
    const PackedType* type = packed_type_of(engine_kernels_of(table_of(isa)), format.c_str());
    if (!type) throw std::invalid_argument("the engine does not repack weights of the format '" + format + "'");
    if (type->lattice && !lattice(type->lattice)) throw std::invalid_argument("the points of the format '" + format + "' were not given");
    return *type;
}

nb::dict packed_types(const std::string& isa) {
    const EngineKernels& kernels = engine_kernels_of(table_of(isa));
    nb::dict spans;
    for (size_t i = 0; i < kernels.type_count; ++i) spans[kernels.types[i].name] = kernels.types[i].span;
    return spans;
}

// Types that no file has, with the bytes of 32 columns.
nb::dict group_types() {
    const EngineKernels& kernels = engine_kernels_of(table_of("scalar"));
    nb::dict bytes;
    for (size_t i = 0; i < kernels.group_count; ++i) bytes[kernels.groups[i].name] = kernels.groups[i].span_bytes;
    for (size_t i = 0; i < kernels.group_count; ++i)
        if (const char* rest = kernels.groups[i].rest) nb::del(bytes[rest]);  // no matrix is stored so
    return bytes;
}

// Bytes of the panels of a (rows, cols) matrix.
int64_t panels_size(const std::string& format, int64_t rows, int64_t cols, const std::string& isa) {
    const PackedType& type = required_type(format, isa);
    require(cols % type.span == 0, "columns are not a multiple of the format's span");
    return (rows + type.rows - 1) / type.rows * type.panel_bytes(cols);
}

void pack_panels(const std::string& format, const Bytes& stored, int64_t cols, const RawOut& panels, const std::string& isa) {
    const PackedType& type = required_type(format, isa);
    const auto rows = static_cast<int64_t>(stored.shape(0)), row_bytes = static_cast<int64_t>(stored.shape(1));
    require(row_bytes == cols / type.span * type.span_bytes, "the stored rows have the wrong width");
    require(static_cast<int64_t>(panels.size()) == panels_size(format, rows, cols, isa), "the panels have the wrong size");
    nb::gil_scoped_release unlocked;
    for (int64_t r = 0, i = 0; r < rows; r += type.rows, ++i)
        type.pack(stored.data() + r * row_bytes, row_bytes, std::min<int64_t>(type.rows, rows - r), cols,
                  panels.data() + i * type.panel_bytes(cols));
}

// out (tokens, rows) = x (tokens, cols), rounded to 8 bits, by panels.
void multiply_panels(const std::string& format, const Raw& panels, const FloatsIn& x, const FloatsOut& out, const std::string& isa) {
    const PackedType& type = required_type(format, isa);
    const auto tokens = static_cast<int64_t>(x.shape(0)), cols = static_cast<int64_t>(x.shape(1)), rows = static_cast<int64_t>(out.shape(1));
    require(static_cast<int64_t>(panels.size()) == panels_size(format, rows, cols, isa) && out.shape(0) == x.shape(0),
            "panels, numbers and results disagree in shape");
    nb::gil_scoped_release unlocked;
    std::vector<uint8_t> room(static_cast<size_t>(Rounded::bytes(tokens, cols)));
    const Rounded rounded = Rounded::in(room.data(), tokens, cols);
    engine_kernels_of(table_of(isa)).round(x.data(), cols, rounded);
    type.multiply(panels.data(), rows, rounded, out.data(), rows);
}

// out (tokens, rows) = x (tokens, cols) by rows of plain numbers (rows, bytes).
void multiply_plain(const std::string& numbers, const Bytes& w, const FloatsIn& x, const FloatsOut& out, const std::string& isa) {
    const Number kind = number_of(numbers);
    const auto tokens = static_cast<int64_t>(x.shape(0)), cols = static_cast<int64_t>(x.shape(1)), rows = static_cast<int64_t>(out.shape(1));
    require(static_cast<int64_t>(w.shape(0)) == rows && static_cast<int64_t>(w.shape(1)) == cols * width_of(kind) &&
                out.shape(0) == x.shape(0),
            "weights, numbers and results disagree in shape");
    nb::gil_scoped_release unlocked;
    engine_kernels_of(table_of(isa)).multiply(kind, w.data(), rows, cols, x.data(), cols, tokens, out.data(), rows);
}

// Weights as panels, numbers rounded to bfloat16 first.
void multiply_bfloats(const std::string& numbers, const Bytes& w, const FloatsIn& x, const FloatsOut& out, const std::string& isa) {
    const Number kind = number_of(numbers);
    require(kind != Number::f32, "F32 has no product in bfloat16");
    const auto tokens = static_cast<int64_t>(x.shape(0)), cols = static_cast<int64_t>(x.shape(1)), rows = static_cast<int64_t>(out.shape(1));
    require(static_cast<int64_t>(w.shape(0)) == rows && static_cast<int64_t>(w.shape(1)) == 2 * cols && out.shape(0) == x.shape(0),
            "weights, numbers and results disagree in shape");
    nb::gil_scoped_release unlocked;
    const EngineKernels& kernels = engine_kernels_of(table_of(isa));
    const PackedType& type = kernels.bfloats[kind == Number::f16];
    const int64_t padded = (cols + 31) / 32 * 32, bytes = type.panel_bytes(cols), panels = (rows + type.rows - 1) / type.rows;
    std::vector<uint8_t> packed(static_cast<size_t>(panels * bytes));
    for (int64_t p = 0; p < panels; ++p)
        type.pack(w.data() + p * type.rows * 2 * cols, 2 * cols, std::min<int64_t>(type.rows, rows - p * type.rows), cols, packed.data() + p * bytes);
    std::vector<uint16_t> rounded(static_cast<size_t>(tokens * padded));
    for (int64_t t = 0; t < tokens; ++t) kernels.round_bfloats(x.data() + t * cols, cols, rounded.data() + t * padded);
    type.multiply_bfloats(packed.data(), rows, {tokens, padded, rounded.data()}, out.data(), rows);
}

std::vector<int32_t> whole_numbers(const nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>& in) {
    return {in.data(), in.data() + in.size()};
}
using Indices = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Runs a batch; `result` (outputs, width) becomes what the buffer holds.
void run(Session& session, const Indices& tokens, const Indices& sequences, const Indices& positions, const Indices& outputs,
         int64_t buffer, const FloatsOut& result) {
    require(buffer >= 0 && buffer < static_cast<int64_t>(session.machine.buffers.size()), "there is no such buffer");
    require(result.shape(0) == outputs.size() && static_cast<int64_t>(result.shape(1)) == session.width(buffer) &&
                session.per({buffer, 0}) == Rows::outputs,
            "the result has the wrong shape");
    const Batch batch{whole_numbers(tokens), whole_numbers(sequences), whole_numbers(positions), whole_numbers(outputs)};
    nb::gil_scoped_release unlocked;
    session.run(batch);
    if (outputs.size()) std::memcpy(result.data(), session.row({buffer, 0}, 0), result.size() * sizeof(float));
}

CacheType cache_type_of(const std::string& name) {
    constexpr const char* names[] = {"F32", "F16", "Q8_0", "Q4_0"};
    for (int i = 0; i < 4; ++i)
        if (name == names[i]) return static_cast<CacheType>(i);
    throw std::invalid_argument("a cache is F32, F16, Q8_0 or Q4_0, not '" + name + "'");
}

// How many products were made in registers, and their sum.
nb::tuple multiply_registers(int64_t rounds, const Raw& codes, const nb::ndarray<const int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>& x, const std::string& isa) {
    require(codes.size() == 64 && x.size() == 4, "64 codes and 4 numbers are wanted");
    int64_t count, total;
    {
        nb::gil_scoped_release unlocked;
        count = engine_kernels_of(table_of(isa)).multiply_registers(rounds, codes.data(), x.data(), &total);
    }
    return nb::make_tuple(count, total);
}

int64_t cache_size(const std::string& type, int64_t count) { return cached_bytes(cache_type_of(type), count); }

}  // namespace

void bind_engine(nb::module_& m) {
    m.def("packed_types", &packed_types, nb::arg("isa") = "");
    m.def("group_types", &group_types);
    m.def("panels_size", &panels_size, nb::arg("format"), nb::arg("rows"), nb::arg("cols"), nb::arg("isa") = "");
    m.def("pack_panels", &pack_panels, nb::arg("format"), nb::arg("stored"), nb::arg("cols"), nb::arg("panels"), nb::arg("isa") = "");
    m.def("multiply_panels", &multiply_panels, nb::arg("format"), nb::arg("panels"), nb::arg("x"), nb::arg("out"), nb::arg("isa") = "");
    m.def("multiply_plain", &multiply_plain, nb::arg("numbers"), nb::arg("w"), nb::arg("x"), nb::arg("out"), nb::arg("isa") = "");
    m.def("multiply_bfloats", &multiply_bfloats, nb::arg("numbers"), nb::arg("w"), nb::arg("x"), nb::arg("out"), nb::arg("isa") = "");
    m.def("multiply_registers", &multiply_registers, nb::arg("rounds"), nb::arg("codes"), nb::arg("x"), nb::arg("isa") = "");
    m.def("cached_bytes", &cache_size, nb::arg("type"), nb::arg("count"));

    nb::class_<Machine>(m, "Machine")
        .def("__init__", [](Machine* self, int threads, bool exact, bool keep_stored, const std::string& isa) {
            require(threads > 0 && threads <= 1024, "a machine has 1 to 1024 threads");
            new (self) Machine(threads, exact, keep_stored, table_of(isa));
        }, nb::arg("threads"), nb::arg("exact") = false, nb::arg("keep_stored") = false, nb::arg("isa") = "")
        .def("add_weight", [](Machine& self, const std::string& format, int64_t experts, int64_t rows, int64_t cols, const Raw& stored, bool mapped) {
            return self.add_weight(format, experts, rows, cols, stored.data(), static_cast<int64_t>(stored.size()), mapped);
        }, nb::arg("format"), nb::arg("experts"), nb::arg("rows"), nb::arg("cols"), nb::arg("stored").noconvert(), nb::arg("mapped"),
             nb::keep_alive<1, 6>())  // the machine looks at the stored bytes as long as it lives
        .def("add_vector", &Machine::add_vector, nb::arg("numbers"))
        .def("add_buffer", [](Machine& self, int per, int64_t width) { return self.add_buffer(static_cast<Rows>(per), width); }, nb::arg("per"), nb::arg("width"))
        .def("add_rope", [](Machine& self, std::vector<float> frequencies, float factor, std::vector<float> longer, int64_t shorter) {
            return self.add_rope({std::move(frequencies), factor, std::move(longer), shorter});
        }, nb::arg("frequencies"), nb::arg("factor"), nb::arg("longer"), nb::arg("shorter"))
        .def("add_cache", [](Machine& self, int64_t heads, int64_t width, int64_t value_width) { return self.add_cache({heads, width, value_width}); }, nb::arg("heads"), nb::arg("width"), nb::arg("value_width"))
        .def("add_op", &Machine::add_op, nb::arg("name"), nb::arg("numbers"), nb::arg("floats"))
        .def("panels_bytes", &Machine::panels_bytes, nb::arg("which"))
        .def("pack", &Machine::pack, nb::arg("which"), nb::call_guard<nb::gil_scoped_release>())
        .def("set_experts_per_token", &Machine::set_experts_per_token, nb::arg("count"));
    nb::class_<Session>(m, "Session")
        .def("__init__", [](Session* self, Machine& machine, int64_t sequences, int64_t context, int64_t batch, const std::string& cache) {
            new (self) Session(machine, sequences, context, batch, cache_type_of(cache));
        }, nb::arg("machine"), nb::arg("sequences"), nb::arg("context"), nb::arg("batch"), nb::arg("cache"), nb::keep_alive<1, 2>())
        .def("run", &run, nb::arg("tokens"), nb::arg("sequences"), nb::arg("positions"), nb::arg("outputs"), nb::arg("buffer"), nb::arg("result"));
    nb::class_<Generation>(m, "Generation")
        .def("__init__", [](Generation* self, Session& session, Sampler& sampler, const Indices& history, int64_t sequence,
                            int64_t position, int64_t count, const std::vector<int32_t>& stops, int64_t buffer) {
            require(position >= 0 && position < static_cast<int64_t>(history.size()) &&
                        static_cast<int64_t>(history.size()) - position <= session.most_tokens,
                    "there is nothing to read, or too much at once");
            require(count >= 0 && static_cast<int64_t>(history.size()) + count - 1 <= session.context, "the context is too short");
            require(buffer >= 0 && buffer < static_cast<int64_t>(session.machine.buffers.size()) && session.per({buffer, 0}) == Rows::outputs,
                    "there is no such buffer");
            new (self) Generation(session, sampler, whole_numbers(history), sequence, position, count, stops, buffer);
        }, nb::arg("session"), nb::arg("sampler"), nb::arg("history"), nb::arg("sequence"), nb::arg("position"), nb::arg("count"),
             nb::arg("stops"), nb::arg("buffer"), nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>())
        .def("run", &Generation::run, nb::call_guard<nb::gil_scoped_release>())
        .def("wait", &Generation::wait, nb::arg("seconds"), nb::call_guard<nb::gil_scoped_release>())
        .def("take", &Generation::take)
        .def("cancel", &Generation::cancel)
        .def_prop_ro("ended", &Generation::ended)
        .def_prop_ro("position", &Generation::position)
        .def_prop_ro("refused", &Generation::refused);
}

}  // namespace fewbits
