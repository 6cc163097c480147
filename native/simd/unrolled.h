// Loops whose counters are constants.
#pragma once
#include <utility>

namespace fewbits {
namespace {

template <int first, int... steps, typename F>
void unrolled_from(std::integer_sequence<int, steps...>, F function) {
    (function(std::integral_constant<int, first + steps>{}), ...);
}
// function(0), function(1), ... with constants.
template <int count, typename F>
void unrolled(F function) {
    unrolled_from<0>(std::make_integer_sequence<int, count>{}, function);
}

}  // namespace
}  // namespace fewbits
