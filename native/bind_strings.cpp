// Vocabularies in a GGUF header, strings of 8 bytes of length and UTF-8: found, checked, not copied.
#include "bindings.h"

#include <nanobind/ndarray.h>

#include <cstdint>
#include <cstring>

namespace fewbits {
namespace {

namespace nb = nanobind;

using Text = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Starts = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Bytes of the code point at `text`, by its first byte; 0 where no code point begins (Unicode 15, table 3-7).
int bytes_of_point(const uint8_t* text, int64_t left) {
    const uint8_t first = text[0];
    if (first < 0x80) return 1;
    const int bytes = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    if (bytes == 0 || bytes > left) return 0;
    const uint8_t least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;  // no longer form than needed
    const uint8_t most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;   // no surrogates, nothing above U+10FFFF
    if (text[1] < least || text[1] > most) return 0;
    for (int i = 2; i < bytes; ++i)
        if (text[i] < 0x80 || text[i] > 0xBF) return 0;
    return bytes;
}

bool is_utf8(const uint8_t* text, int64_t size) {
    for (int64_t at = 0; at < size;) {
        const int bytes = bytes_of_point(text + at, size - at);
        if (bytes == 0) return false;
        at += bytes;
    }
    return true;
}

// Where strings begin from byte `start` on, one after another, and last where the last one ends: as many as `starts` has
// room for. Returns how many are whole and UTF-8.
int64_t find_strings(const Text& data, int64_t start, const Starts& starts) {
    const auto size = static_cast<int64_t>(data.size()), count = static_cast<int64_t>(starts.size()) - 1;
    nb::gil_scoped_release unlocked;
    starts.data()[0] = start;
    for (int64_t i = 0; i < count; ++i) {
        uint64_t length;
        if (start > size - 8) return i;
        std::memcpy(&length, data.data() + start, 8);
        start += 8;
        if (length > static_cast<uint64_t>(size - start)) return i;
        if (!is_utf8(data.data() + start, static_cast<int64_t>(length))) return i;
        start += static_cast<int64_t>(length);
        starts.data()[i + 1] = start;
    }
    return count;
}

}  // namespace

void bind_strings(nb::module_& m) {
    m.def("find_strings", &find_strings, nb::arg("data"), nb::arg("start"), nb::arg("starts"));
}

}  // namespace fewbits
