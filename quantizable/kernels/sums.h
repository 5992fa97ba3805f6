// Sums in the order of torch, which decides their last bits.

#pragma once
#include "numbers.h"

// The sum of value(from) to value(to - 1) in the order of torch (aten/src/ATen/native/cpu/SumKernel.cpp): four
// vectors side by side, each number of them in four levels of partial sums. WIDTH: numbers in four vectors.
template <int WIDTH, class Value> static float summed(i64 from, i64 to, Value value) {
  const int lanes = WIDTH / 4;
  const i64 vectors = (to - from) / lanes, rows = vectors / 4;
  int power = 1;
  while ((i64(1) << power) < rows) power++;
  power = power / 4 > 4 ? power / 4 : 4;
  float sums[4][WIDTH] = {};
  i64 row = 0;
  auto add_row = [&](i64 at) {
    float values[WIDTH];
#pragma GCC ivdep
    for (int i = 0; i < WIDTH; i++) values[i] = value(at + i);
    for (int i = 0; i < WIDTH; i++) sums[0][i] += values[i];
  };
  while (row + (i64(1) << power) <= rows) {
    for (i64 end = row + (i64(1) << power); row < end; row++) add_row(from + row * WIDTH);
    for (int level = 1; level < 4; level++) {
      for (int i = 0; i < WIDTH; i++) sums[level][i] += sums[level - 1][i], sums[level - 1][i] = 0.f;
      if (row & (((i64(1) << power) - 1) << (level * power))) break;
    }
  }
  for (; row < rows; row++) add_row(from + row * WIDTH);
  for (int level = 1; level < 4; level++)
    for (int i = 0; i < WIDTH; i++) sums[0][i] += sums[level][i];
  for (i64 vector = rows * 4; vector < vectors; vector++)
    for (int i = 0; i < lanes; i++) sums[0][i] += value(from + vector * lanes + i);
  for (int k = 1; k < 4; k++)
    for (int i = 0; i < lanes; i++) sums[0][i] += sums[0][k * lanes + i];
  float total = 0.f;
  for (i64 at = from + vectors * lanes; at < to; at++) total += value(at);
  for (int i = 0; i < lanes; i++) total += sums[0][i];
  return total;
}

// The same of a row of a tensor with many; torch has no vectors for rows that are shorter than one.
template <class Value> static float row_sum(i64 from, i64 to, Value value) {
  const int lanes = to - from < lanes_of_torch ? 1 : lanes_of_torch;
  return lanes == 16  ? summed<64>(from, to, value)
         : lanes == 8 ? summed<32>(from, to, value)
         : lanes == 4 ? summed<16>(from, to, value)
                      : summed<4>(from, to, value);
}

// The sum of value(0) to value(n - 1) in the parts that torch gives its threads, one number of `parts` each.
template <class Value> static void sum_parts(float* parts, i64 n, int threads, Value value) {
  const i64 grain = 32768, most = (n + grain - 1) / grain;
  const i64 count = n < grain ? 1 : most < threads ? most : threads, length = (n + count - 1) / count;
#pragma omp parallel for schedule(static, 1) num_threads(threads) if (count > 1)
  for (i64 i = 0; i < count; i++) {
    const i64 from = i * length, to = from + length < n ? from + length : n;
    if (from < to)
      parts[i] = lanes_of_torch == 16  ? summed<64>(from, to, value)
                 : lanes_of_torch == 8 ? summed<32>(from, to, value)
                                       : summed<16>(from, to, value);
  }
}
