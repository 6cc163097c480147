// From logits to a token. The same seed chooses the same tokens on every machine: exponentials and random numbers are our
// own, probabilities are whole numbers, whose sums do not depend on any order, and ties go to the lower token.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fewbits {

// The order is that of transformers' generate(): repetition penalty, temperature, top-k, top-p, min-p. (llama.cpp divides
// by the temperature last, so that its top-p and min-p do not see it.)
struct SamplerSettings {
    double temperature = 1.0;          // 0 takes the best token
    int64_t top_k = 0;                 // the k best tokens; 0 for all
    double top_p = 1.0;                // the fewest best tokens whose probabilities reach p together
    double min_p = 0.0;                // tokens at least p times as probable as the best one
    double repetition_penalty = 1.0;   // logits of tokens that were there: positive ones are divided by it, others multiplied
    int64_t repetition_window = 0;     // how many tokens are looked back on; 0 for all
    uint64_t seed = 0;
};

// What `sample` returns where there is no token to choose.
constexpr int32_t nothing_allowed = -1;  // the mask leaves no token, or only ones of logit minus infinity
constexpr int32_t not_numbers = -2;      // a logit of an allowed token is NaN or infinite: the model is damaged

// Chooses the tokens of one sequence; each draw takes the next random number of the seed.
class Sampler {
   public:
    // Raises std::invalid_argument for settings that mean nothing.
    explicit Sampler(const SamplerSettings& settings);

    // The next token. `history` is what the penalty looks back on, the last token last; bit t % 32 of `allowed[t / 32]`
    // says whether token t may be chosen (nullptr: all). Tokens of `history` outside of the vocabulary count for nothing.
    int32_t sample(const float* logits, int64_t vocabulary, const int32_t* history, int64_t history_length,
                   const uint32_t* allowed);

   private:
    struct Candidate {
        float logit;
        int32_t token;
        uint64_t weight;  // probability in units of 2^-40 of the best one's
    };

    struct Better;
    struct Lower;

    template <typename Order>
    size_t shortest_head(Order before, uint64_t wanted);
    const float* penalized(const float* logits, int64_t vocabulary, const int32_t* history, int64_t length);
    bool collect_best(const float* logits, int64_t vocabulary, const uint32_t* allowed, size_t k);
    void weigh(float best);
    void keep_most_probable();
    void keep_probable_enough();
    int32_t draw();
    uint64_t next_random();

    SamplerSettings settings_;
    uint64_t draws_ = 0;
    std::vector<Candidate> candidates_;
    std::vector<float> logits_;       // a copy, where the penalty changes some
    std::vector<uint32_t> punished_;  // one bit per token: its penalty was applied
};

}  // namespace fewbits
