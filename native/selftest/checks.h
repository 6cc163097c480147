// What the self-test's parts share: how a difference is told, and weights that lead through different branches.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "fewbits/kernels.h"

namespace fewbits {

inline int failures = 0;

inline void expect(bool equal, const char* isa, const char* what, const std::string& case_name) {
    if (equal) return;
    ++failures;
    std::printf("FAILED: %s %s differs from scalar (%s)\n", isa, what, case_name.c_str());
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(T));
}

// Kinds of weights that lead through different branches: ordinary, one-sided, sparse, tiny, huge, constant, far from
// zero, tiny for binary16, too large for it, zero.
inline std::vector<float> weights(int kind, int64_t count, std::mt19937& random) {
    std::normal_distribution<float> normal;
    std::vector<float> w(static_cast<size_t>(count));
    for (float& x : w) {
        const float sample = normal(random);
        switch (kind) {
            case 0: x = sample * 0.02f; break;
            case 1: x = std::fabs(sample); break;
            case 2: x = sample > 1.5f ? sample : 0.0f; break;
            case 3: x = sample * 1e-39f; break;
            case 4: x = sample * 1e4f; break;
            case 5: x = -0.37f; break;
            case 6: x = 3.0f + sample * 0.01f; break;
            case 7: x = sample * 1e-6f; break;
            case 8: x = sample * 2e37f; break;
            default: x = 0.0f; break;
        }
    }
    return w;
}

constexpr int kinds = 10;

// In engine.cpp: every kernel of the engine; returns how many packed types were compared.
size_t check_engine(const KernelTable& reference, const KernelTable& table, std::mt19937& random);

// In whole.cpp: layers in whole numbers.
void check_whole(const KernelTable& reference, const KernelTable& table, std::mt19937& random);

// In sampler.cpp: tokens that a seed chooses on every machine.
void check_sampler();

}  // namespace fewbits
