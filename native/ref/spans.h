// Stored bytes as spans.
#pragma once
#include "fewbits/families.h"
#include "fewbits/half.h"
#include "fewbits/layouts.h"

namespace fewbits {
namespace {

template <typename Span>
Span* spans_at(uint8_t* p) { return reinterpret_cast<Span*>(p); }
template <typename Span>
const Span* spans_at(const uint8_t* p) { return reinterpret_cast<const Span*>(p); }

inline uint8_t byte(int x) { return static_cast<uint8_t>(x); }

}  // namespace
}  // namespace fewbits
