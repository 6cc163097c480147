#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace fewbits {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr double one = 1099511627776.0;  // 2^40, the weight of the best token: sums of 2^23 weights fit into 64 bits
constexpr double smallest = -27.75;      // exp of less is below 2^-40

// e^x for x in [smallest, 0], to 2^-42: the series of e^r with |r| <= ln(2) / 2, even and odd powers apart, times a power of
// two put together from its bits. What the C library returns for exp differs in the last bit from one to the next.
double exponential(double x) {
    constexpr double per_octave = 1.4426950408889634, octave_high = 0.69314718036912381649, octave_low = 1.90821492927058770002e-10;
    const auto octaves = static_cast<int32_t>(x * per_octave - 0.5);  // the nearest whole number: x is not positive
    const double r = (x - octaves * octave_high) - octaves * octave_low, s = r * r;
    const double even = 1.0 + s * (1.0 / 2 + s * (1.0 / 24 + s * (1.0 / 720 + s * (1.0 / 40320 + s * (1.0 / 3628800)))));
    const double odd = 1.0 + s * (1.0 / 6 + s * (1.0 / 120 + s * (1.0 / 5040 + s * (1.0 / 362880 + s * (1.0 / 39916800)))));
    const uint64_t bits = static_cast<uint64_t>(1023 + octaves) << 52;
    double power;
    std::memcpy(&power, &bits, sizeof power);
    return (even + r * odd) * power;
}

// The finalizer of SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014).
uint64_t mixed(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

// The upper half of a product of 64 x 64 bits.
uint64_t upper_product(uint64_t a, uint64_t b) {
    const uint64_t a_low = a & 0xFFFFFFFFu, a_high = a >> 32, b_low = b & 0xFFFFFFFFu, b_high = b >> 32;
    const uint64_t middle = a_high * b_low + (a_low * b_low >> 32);
    return a_high * b_high + (middle >> 32) + ((a_low * b_high + (middle & 0xFFFFFFFFu)) >> 32);
}

constexpr int64_t word_bits = 32;  // of a mask

// Whether any of `count` logits is above `floor`, and whether all are numbers; compilers make vectors of both.
bool any_above(const float* logits, int64_t count, float floor) {
    int any = 0;
    for (int64_t i = 0; i < count; ++i) any |= logits[i] > floor;
    return any != 0;
}

bool all_numbers(const float* logits, int64_t count) {
    int all = 1;
    for (int64_t i = 0; i < count; ++i) all &= logits[i] < infinity;  // false for NaN, too
    return all != 0;
}

// Calls `visit(token)` for the allowed tokens whose logits are above `floor`, which may rise meanwhile; returns whether the
// logits of all allowed tokens are numbers. Tokens are looked at in groups of 32, most of which hold nothing of interest.
template <typename Visit>
bool each_above(const float* logits, int64_t vocabulary, const uint32_t* allowed, const float& floor, Visit visit) {
    bool numbers = true;
    for (int64_t first = 0; first < vocabulary; first += word_bits) {
        const int64_t count = std::min(word_bits, vocabulary - first);
        const uint32_t bits = allowed ? allowed[first / word_bits] : ~0u;
        if (bits == 0) continue;
        if (bits == ~0u && !any_above(logits + first, count, floor)) {
            numbers &= all_numbers(logits + first, count);
            continue;
        }
        for (int64_t i = 0; i < count; ++i) {
            if (!(bits >> i & 1u)) continue;
            numbers &= logits[first + i] < infinity;
            if (logits[first + i] > floor) visit(static_cast<int32_t>(first + i));
        }
    }
    return numbers;
}

uint64_t share(double part, uint64_t total) { return static_cast<uint64_t>(std::ceil(part * static_cast<double>(total))); }

}  // namespace

struct Sampler::Better {
    bool operator()(const Candidate& a, const Candidate& b) const {
        return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
    }
};

struct Sampler::Lower {
    bool operator()(const Candidate& a, const Candidate& b) const { return a.token < b.token; }
};

Sampler::Sampler(const SamplerSettings& settings) : settings_(settings) {
    const SamplerSettings& s = settings_;
    const auto within = [](double x, double low, double high) { return x >= low && x <= high; };  // false for NaN
    const bool meant = within(s.temperature, 0.0, 1e9) && s.top_k >= 0 && s.top_p > 0.0 && within(s.top_p, 0.0, 1.0) &&
                       within(s.min_p, 0.0, 1.0) && within(s.repetition_penalty, 1e-3, 1e3) && s.repetition_window >= 0;
    if (!meant) throw std::invalid_argument("settings of sampling out of range");
}

// How many candidates, the first ones in the order of `before`, have at least the weight `wanted` together. They stand in
// front then, the last of them where it belongs. Nothing is sorted: the half in which the head ends is halved again, which
// takes about two steps per candidate.
template <typename Order>
size_t Sampler::shortest_head(Order before, uint64_t wanted) {
    auto first = candidates_.begin(), last = candidates_.end();  // the head ends between these
    while (last - first > 1) {
        const auto middle = first + (last - first) / 2;
        std::nth_element(first, middle, last, before);
        uint64_t upper = 0;
        for (auto c = first; c != middle; ++c) upper += c->weight;
        if (upper >= wanted) {
            last = middle;
        } else {
            wanted -= upper;
            first = middle;
        }
    }
    return static_cast<size_t>(last - candidates_.begin());
}

int32_t Sampler::sample(const float* logits, int64_t vocabulary, const int32_t* history, int64_t history_length,
                        const uint32_t* allowed) {
    logits = penalized(logits, vocabulary, history, history_length);
    const int64_t most = settings_.temperature == 0.0 ? 1 : settings_.top_k ? settings_.top_k : vocabulary;
    if (!collect_best(logits, vocabulary, allowed, static_cast<size_t>(most))) return not_numbers;
    if (candidates_.empty()) return nothing_allowed;
    const Candidate best = *std::min_element(candidates_.begin(), candidates_.end(), Better());
    if (settings_.temperature == 0.0) return best.token;
    weigh(best.logit);
    if (settings_.top_p < 1.0) keep_most_probable();
    if (settings_.min_p > 0.0) keep_probable_enough();
    return draw();
}

// The logits with each token of the history punished once (Keskar et al., CTRL, 2019, section 4.1).
const float* Sampler::penalized(const float* logits, int64_t vocabulary, const int32_t* history, int64_t length) {
    const double penalty = settings_.repetition_penalty;
    if (penalty == 1.0 || length == 0) return logits;
    const int64_t window = settings_.repetition_window;
    const int64_t first = window && window < length ? length - window : 0;
    logits_.assign(logits, logits + vocabulary);
    punished_.assign(static_cast<size_t>(vocabulary / word_bits + 1), 0);
    for (int64_t i = first; i < length; ++i) {
        const int32_t token = history[i];
        if (token < 0 || token >= vocabulary) continue;
        uint32_t& word = punished_[static_cast<size_t>(token / word_bits)];
        const uint32_t bit = 1u << (token % word_bits);
        float& logit = logits_[static_cast<size_t>(token)];
        if (!(word & bit)) logit = static_cast<float>(logit > 0.0f ? logit / penalty : logit * penalty);
        word |= bit;
    }
    return logits_.data();
}

// The k best of the allowed tokens, in any order; false where a logit is no number. Whoever is better than the worst of the k
// best so far waits in a list, which is cut back to k when it has twice as many. Of equals the lower token was there first.
bool Sampler::collect_best(const float* logits, int64_t vocabulary, const uint32_t* allowed, size_t k) {
    float worst = -infinity;
    candidates_.clear();
    const auto cut = [&] {
        std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(k - 1), candidates_.end(), Better());
        candidates_.resize(k);
        worst = candidates_.back().logit;
    };
    const bool numbers = each_above(logits, vocabulary, allowed, worst, [&](int32_t token) {
        candidates_.push_back({logits[token], token, 0});
        if (candidates_.size() == 2 * k) cut();
    });
    if (candidates_.size() > k) cut();
    return numbers;
}

// Probabilities as whole numbers, in proportion to the best one's.
void Sampler::weigh(float best) {
    const double temperature = settings_.temperature;
    for (Candidate& c : candidates_) {
        const double x = (static_cast<double>(c.logit) - static_cast<double>(best)) / temperature;
        c.weight = x < smallest ? 0 : static_cast<uint64_t>(exponential(x) * one);
    }
}

void Sampler::keep_most_probable() {
    uint64_t total = 0;
    for (const Candidate& c : candidates_) total += c.weight;
    candidates_.resize(shortest_head(Better(), share(settings_.top_p, total)));
}

void Sampler::keep_probable_enough() {
    const uint64_t least = share(settings_.min_p, static_cast<uint64_t>(one));
    const auto end = std::remove_if(candidates_.begin(), candidates_.end(), [&](const Candidate& c) { return c.weight < least; });
    candidates_.erase(end, candidates_.end());
}

// A candidate with the probability of its weight: the one where the sum, in the order of their numbers, which no library's way
// of selecting changes, goes past a random part of the total.
int32_t Sampler::draw() {
    uint64_t total = 0;
    for (const Candidate& c : candidates_) total += c.weight;
    const uint64_t part = upper_product(next_random(), total);  // less than the total
    return candidates_[shortest_head(Lower(), part + 1) - 1].token;
}

uint64_t Sampler::next_random() { return mixed(mixed(settings_.seed) + ++draws_ * 0x9E3779B97F4A7C15u); }

}  // namespace fewbits
