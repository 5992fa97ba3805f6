// The search for the first step sizes: quantizers/step_size.py. Built into one library with loops.cpp.

#include <cmath>
#include <cstdint>
#include <cstring>

typedef int64_t i64;

enum { LANES = 32, BLOCK = 4 * LANES };

// |d|^2.4 to 1e-6 of it: (d z)^4 with z = |d|^-0.4, from Newton's steps on 1 / z^5 = d^2. No call of pow, which no
// vector unit takes. The first guess reads the bits of d^2 as its logarithm; 1e-30
// keeps it finite.
static inline float to_the_2_4(float d) {
  const float square = d * d + 1e-30f, fifth = -0.2f * square;
  int32_t bits;
  std::memcpy(&bits, &square, 4);
  bits = int32_t(1277970874.f - 0.2f * float(bits));
  float z;
  std::memcpy(&z, &bits, 4);
  for (int step = 0; step < 3; step++) {
    const float z2 = z * z;
    z *= 1.2f + fifth * (z2 * z2 * z);
  }
  const float root = d * z, root2 = root * root;
  return root2 * root2;
}

// The sum of share |x - fake_quantize(x)|^2.4 over a row; or of a part of it, once that is above `limit`.
static float row_error(const float* x, const float* share, i64 length, float scale, float low, float high,
                       float limit) {
  float sums[LANES] = {}, total = 0.f;
  for (i64 from = 0; from < length; from += BLOCK) {
    const i64 to = from + BLOCK < length ? from + BLOCK : length;
    for (i64 at = from; at < to; at += LANES)
      for (int i = 0; i < LANES; i++) {
        float code = std::rint(x[at + i] / scale);
        code = code < low ? low : code;
        code = code > high ? high : code;
        sums[i] += share[at + i] * to_the_2_4(code * scale - x[at + i]);
      }
    total = 0.f;
    for (int i = 0; i < LANES; i++) total += sums[i];
    if (total > limit) break;
  }
  return total;
}

// best[row] = around[row] * factor with the least error: of the coarse factors, then of the fine ones around the best
// of these. The first of equals counts. length: a multiple of LANES; numbers that fill a row up have no share.
extern "C" void least_error(const float* rows, const float* share, const float* around, float* best, i64 count,
                            i64 length, const float* coarse, i64 coarse_count, const float* fine, i64 fine_count,
                            float low, float high, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && count > 1)
  for (i64 row = 0; row < count; row++) {
    const float* x = rows + row * length;
    const float middle = around[row];
    float found = middle, least = INFINITY;
    for (i64 i = coarse_count; i--;) {  // large steps first: what small ones clip is soon above the least
      const float error = row_error(x, share, length, middle * coarse[i], low, high, least);
      if (error <= least && error < INFINITY) least = error, found = middle * coarse[i];
    }
    const float center = found;
    for (i64 i = 0; i < fine_count; i++) {
      if (fine[i] == 1.f) continue;  // the center
      const float error = row_error(x, share, length, center * fine[i], low, high, least);
      if (error < least) least = error, found = center * fine[i];
    }
    best[row] = found;
  }
}
