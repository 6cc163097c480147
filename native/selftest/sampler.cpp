// The choice of tokens: what the slow reference chose (tests/references/sampling.py), on this machine too.
#include "../engine/sampler.h"

#include "checks.h"

namespace fewbits {

// The same cases are in tests/engine/test_sampling.py, where the reference is asked again.
void check_sampler() {
    const struct {
        SamplerSettings settings;
        std::vector<int32_t> chosen;
    } cases[] = {
        {{1.5, 0, 0.9, 0.0, 1.0, 0, 2026}, {867, 644, 210, 120, 76, 455, 840, 868}},
        {{0.7, 20, 0.8, 0.1, 1.3, 0, 7}, {464, 262, 939, 838, 565, 333, 363, 535}},
        {{3.0, 0, 1.0, 0.0, 1.0, 0, ~uint64_t{0}}, {646, 705, 319, 29, 832, 56, 472, 774}},
    };
    std::vector<float> logits(1000);
    for (int i = 0; i < 1000; ++i) logits[static_cast<size_t>(i)] = static_cast<float>(i * 37 % 101) / 16.0f;
    const std::vector<int32_t> history{30, 71, 101};
    for (const auto& each : cases) {
        Sampler sampler(each.settings);
        std::vector<int32_t> chosen;
        for (size_t i = 0; i < each.chosen.size(); ++i)
            chosen.push_back(sampler.sample(logits.data(), 1000, history.data(), 3, nullptr));
        expect(chosen == each.chosen, "sampler", "choice", "seed " + std::to_string(each.settings.seed));
    }
}

}  // namespace fewbits
