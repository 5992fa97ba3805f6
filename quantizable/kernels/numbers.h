// Numbers of tensors: what is read, what is written, and loops over them.

#pragma once
#if !defined(__linux__) || !defined(__GNUC__) || defined(__clang__)
#error "torch runs on GNU's OpenMP only there, and two kinds of threads in one process wait for each other"
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

typedef uint16_t bf16;
typedef int64_t i64;

static inline float read(float x) { return x; }
static inline float read(bf16 x) {
  const uint32_t bits = uint32_t(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
static inline void write(float& at, float value) { at = value; }
static inline void write(bf16& at, float value) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = 0u - uint32_t(value != value);  // no branch: it would keep a loop from vector units
  at = bf16((rounded & ~nan) | (0x7fc0u & nan));
}
template <class T> static inline float stored(float value) {  // what is left of a result in a tensor
  T place;
  write(place, value);
  return read(place);
}
static inline float clamp(float x, float low, float high) {  // NaN stays NaN
  x = x < low ? low : x;
  return x > high ? high : x;
}
static inline float where(bool yes, float x) {  // x or 0, without a branch
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits &= 0u - uint32_t(yes);
  std::memcpy(&x, &bits, 4);
  return x;
}
static inline bool inside(float x, float low, float high, bool ends) {
  return ((x > low) & (x < high)) | (ends & ((x == low) | (x == high)));
}
static inline float step_size(float scale) { return scale < 1e-9f ? 1e-9f : scale; }  // functional.SMALLEST_SCALE
static inline float sign(float x) { return float((0.f < x) - (x < 0.f)); }

extern "C" {  // found out at the start, by kernels/trial.py
// 1: torch's kernels round a product and a sum once, as its compiler contracted them; 0: twice
extern int one_rounding;
extern int lanes_of_torch;  // numbers in a vector of torch's kernels; 0: the order of its sums is not known
}
static inline float add_product(bool fused, float x, float a, float b) {  // x + a b
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  if (fused) return std::fma(a, b, x);
#endif
  return x + a * b;
}

#define EACH_NUMBER _Pragma("GCC ivdep") for (i64 i = from; i < to; i++)  // no number needs another

template <class Work> static void typed(int half, Work work) {
  if (half) work(bf16()); else work(float());
}
template <class Work> static void in_blocks(i64 rows, i64 length, int threads, Work work) {
  const i64 block = 16384, pieces = (length + block - 1) / block, all = rows * pieces;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * length > 2 * block)
  for (i64 i = 0; i < all; i++) {
    const i64 row = i / pieces, start = i % pieces * block;
    const i64 n = length - start < block ? length - start : block;
    work(row, row * length + start, row * length + start + n);
  }
}
