// The most products of bytes that an instruction set adds up where nothing is loaded: what kernels are held against.
#pragma once
#include "quads.h"
#include "unrolled.h"

namespace fewbits {
namespace {

// As many sums at a time as hide how long one takes, and stay in registers. With AVX2 a processor finds them by itself
// in the rounds to come: a round's products wait for nobody.
#if defined(__AVX512F__)
constexpr int peak_chains = 12;
#elif defined(__AVX2__)
constexpr int peak_chains = 1;
#else
constexpr int peak_chains = 6;
#endif

// Keeps the compiler from knowing that a vector is the same in every round.
inline void forget(Quads& q) {
#if defined(__AVX512F__)
    asm volatile("" : "+v"(q.v));
#elif defined(__AVX2__)
    asm volatile("" : "+x"(q.v));
#else
    asm volatile("" : "+w"(q.v));
#endif
}

int64_t multiply_registers(int64_t rounds, const uint8_t* codes, const int8_t* x, int64_t* total) {
    Quads first = Quads::load(codes), second = Quads::repeat(x);
    Wholes sum = Wholes::all(0);
    for (int64_t round = 0; round < rounds; ++round) {
        Products<4> products[peak_chains];
        unrolled<8>([&](auto step) {
            unrolled<peak_chains>([&](auto chain) {
                forget(first);
                products[chain].template add<decltype(step)::value>(first, second);
            });
        });
        unrolled<peak_chains>([&](auto chain) { sum = sum + products[chain].template total<8>(); });
    }
    int32_t lanes[panel_rows];
    std::memcpy(lanes, &sum.v, sizeof lanes);
    *total = 0;
    for (int32_t lane : lanes) *total += lane;
    return rounds * peak_chains * 8 * quad_bytes;
}

}  // namespace
}  // namespace fewbits
