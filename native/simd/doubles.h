// As many doubles as a Vec has floats: the same lanes, twice as wide.
#pragma once
#include "vec.h"

namespace fewbits {
namespace {

#if defined(__AVX512F__)
struct Doubles {
    __m512d low, high;
    static Doubles load(const double* p) { return {_mm512_loadu_pd(p), _mm512_loadu_pd(p + 8)}; }
    static Doubles all(double x) { return {_mm512_set1_pd(x), _mm512_set1_pd(x)}; }
    static Doubles of(Vec x) {
        return {_mm512_cvtps_pd(_mm512_castps512_ps256(x.v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1))};
    }
    void store(double* p) const {
        _mm512_storeu_pd(p, low);
        _mm512_storeu_pd(p + 8, high);
    }
    Vec narrow() const {
        return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1)};
    }
};
inline Doubles operator+(Doubles a, Doubles b) { return {_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)}; }
inline Doubles operator-(Doubles a, Doubles b) { return {_mm512_sub_pd(a.low, b.low), _mm512_sub_pd(a.high, b.high)}; }
inline Doubles operator*(Doubles a, Doubles b) { return {_mm512_mul_pd(a.low, b.low), _mm512_mul_pd(a.high, b.high)}; }
inline Doubles fused(Doubles a, Doubles b, Doubles sum) {
    return {_mm512_fmadd_pd(a.low, b.low, sum.low), _mm512_fmadd_pd(a.high, b.high, sum.high)};
}
#elif defined(__AVX2__)
struct Doubles {
    __m256d low, high;
    static Doubles load(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
    static Doubles all(double x) { return {_mm256_set1_pd(x), _mm256_set1_pd(x)}; }
    static Doubles of(Vec x) {
        return {_mm256_cvtps_pd(_mm256_castps256_ps128(x.v)), _mm256_cvtps_pd(_mm256_extractf128_ps(x.v, 1))};
    }
    void store(double* p) const {
        _mm256_storeu_pd(p, low);
        _mm256_storeu_pd(p + 4, high);
    }
    Vec narrow() const {
        return {_mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(low)), _mm256_cvtpd_ps(high), 1)};
    }
};
inline Doubles operator+(Doubles a, Doubles b) { return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)}; }
inline Doubles operator-(Doubles a, Doubles b) { return {_mm256_sub_pd(a.low, b.low), _mm256_sub_pd(a.high, b.high)}; }
inline Doubles operator*(Doubles a, Doubles b) { return {_mm256_mul_pd(a.low, b.low), _mm256_mul_pd(a.high, b.high)}; }
inline Doubles fused(Doubles a, Doubles b, Doubles sum) {
    return {_mm256_fmadd_pd(a.low, b.low, sum.low), _mm256_fmadd_pd(a.high, b.high, sum.high)};
}
#elif defined(__ARM_NEON)
struct Doubles {
    float64x2_t low, high;
    static Doubles load(const double* p) { return {vld1q_f64(p), vld1q_f64(p + 2)}; }
    static Doubles all(double x) { return {vdupq_n_f64(x), vdupq_n_f64(x)}; }
    static Doubles of(Vec x) { return {vcvt_f64_f32(vget_low_f32(x.v)), vcvt_high_f64_f32(x.v)}; }
    void store(double* p) const {
        vst1q_f64(p, low);
        vst1q_f64(p + 2, high);
    }
    Vec narrow() const { return {vcombine_f32(vcvt_f32_f64(low), vcvt_f32_f64(high))}; }
};
inline Doubles operator+(Doubles a, Doubles b) { return {vaddq_f64(a.low, b.low), vaddq_f64(a.high, b.high)}; }
inline Doubles operator-(Doubles a, Doubles b) { return {vsubq_f64(a.low, b.low), vsubq_f64(a.high, b.high)}; }
inline Doubles operator*(Doubles a, Doubles b) { return {vmulq_f64(a.low, b.low), vmulq_f64(a.high, b.high)}; }
inline Doubles fused(Doubles a, Doubles b, Doubles sum) {
    return {vfmaq_f64(sum.low, a.low, b.low), vfmaq_f64(sum.high, a.high, b.high)};
}
#endif

}  // namespace
}  // namespace fewbits
