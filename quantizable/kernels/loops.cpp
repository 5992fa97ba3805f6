// The elementwise work of fake quantization, forward and backward, in one pass over memory each.
//
// Every function gives, bit for bit, what the operations of torch give that it stands for: the same operations
// in the same order in float32, each result of the type that torch would store. Sums are left to torch.
//
// A tensor is a pointer to `rows` times `length` numbers in the order of memory, with one step size a row. If
// `half` is not 0 the numbers are bfloat16, else float32. A null pointer stands for what is not wanted.

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
static inline float sign(float x) { return float((0.f < x) - (x < 0.f)); }

extern "C" {
int one_rounding = 1;  // 1: torch's kernels round a product and a sum once, as its compiler contracted them; 0: twice
int lanes_of_torch = 16;  // numbers in a vector of torch's kernels
}
static inline float add_product(bool fused, float x, float a, float b) {  // x + a b
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  if (fused) return std::fma(a, b, x);
#endif
  return x + a * b;
}

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

extern "C" {

// functional.fake_quantize: out = (clamp(round(x / scale + zero), low, high) - zero) * scale
void fake_quantize(int half, const void* x_, void* out_, i64 rows, i64 length, const float* scale,
                   const float* zero, float low, float high, int threads) {
  typed(half, [=](auto type) {
    typedef decltype(type) T;
    const T* x = (const T*)x_;
    T* out = (T*)out_;
    in_blocks(rows, length, threads, [=](i64 row, i64 from, i64 to) {
      const float s = scale[row];
      if (zero) {
        const float z = zero[row];
        EACH_NUMBER
          write(out[i], (clamp(std::rint(read(x[i]) / s + z), low, high) - z) * s);
      } else {
        EACH_NUMBER write(out[i], clamp(std::rint(read(x[i]) / s), low, high) * s);
      }
    });
  });
}

// Its gradients. grad_x: grad where low < x / scale + zero < high, else 0; without a scale, x itself is compared.
// Of a NaN it is 0. (torch's kernel gives 0 or grad, by the place in the tensor.)
// share, to be summed for the scale: grad * out - grad_x * x, or grad_x * x where there is no out.
// zero_share, to be summed for the zero point: grad_x - grad.
void fake_quantize_gradients(int half, const void* grad_, const void* x_, const void* out_, void* grad_x_,
                             void* share_, void* zero_share_, i64 rows, i64 length, const float* scale,
                             const float* zero, float low, float high, int threads) {
  typed(half, [=](auto type) {
    typedef decltype(type) T;
    const T *grad = (const T*)grad_, *x = (const T*)x_, *out = (const T*)out_;
    T *grad_x = (T*)grad_x_, *share = (T*)share_, *zero_share = (T*)zero_share_;
    const bool fused = one_rounding;
    in_blocks(rows, length, threads, [=](i64 row, i64 from, i64 to) {
      const float s = scale ? scale[row] : 1.f, z = zero ? zero[row] : 0.f;
      auto passes = [=](float value) {  // to divide by 1 and to add 0 change no comparison
        const float code = value / s + z;
        return (code > low) & (code < high);
      };
      if (!share) {
        EACH_NUMBER write(grad_x[i], where(passes(read(x[i])), read(grad[i])));
      } else if (!out) {
        EACH_NUMBER {
          const float value = read(x[i]), g = read(grad[i]), passed = where(passes(value), g);
          write(grad_x[i], passed);
          write(share[i], passed * value);
        }
      } else {
        EACH_NUMBER {
          const float value = read(x[i]), g = read(grad[i]), passed = where(passes(value), g);
          write(grad_x[i], passed);
          const float first = stored<T>(g * read(out[i]));  // a product of two bfloat16 is exact: no rounding twice
          write(share[i], sizeof(T) == 2 ? first - passed * value : add_product(fused, first, -passed, value));
        }
      }
      if (zero_share)
        EACH_NUMBER write(zero_share[i], read(grad_x[i]) - read(grad[i]));
    });
  });
}

// The same of float32 with one scale, where x itself is compared; parts gets the sums of share (see sum_parts).
void fake_quantize_gradients_summed(const float* grad, const float* x, const float* out, float* grad_x, float* parts,
                                    i64 n, float low, float high, int threads) {
  auto pass = [=](i64 i) { return grad_x[i] = where((x[i] > low) & (x[i] < high), grad[i]); };
  if (out) {
    const bool fused = one_rounding;
    sum_parts(parts, n, threads, [=](i64 i) { return add_product(fused, grad[i] * out[i], -pass(i), x[i]); });
  } else {
    sum_parts(parts, n, threads, [=](i64 i) { return pass(i) * x[i]; });
  }
}

// DoReFaActivation, PACTActivation: out = round(clipped / scale) * scale, clipped between bottom and top.
void clip(int half, const void* x_, void* out_, i64 n, float bottom, float top, float scale, int threads) {
  typed(half, [=](auto type) {
    typedef decltype(type) T;
    const T* x = (const T*)x_;
    T* out = (T*)out_;
    in_blocks(1, n, threads, [=](i64, i64 from, i64 to) {
      EACH_NUMBER {
        const float value = read(x[i]), raised = value < bottom ? bottom : value;
        write(out[i], std::rint((value >= top ? top : raised) / scale) * scale);
      }
    });
  });
}

// Its gradients; above and below (float32), to be summed for top and bottom: grad where x was clipped there.
// Returns 1 if a gradient is so large, or not a number, that what is left out where there is no `below`,
// zero times their sum, need not be zero.
int clip_gradients(int half, const void* grad_, const void* x_, void* grad_x_, float* above, float* below, i64 n,
                   float bottom, float top, int threads) {
  int unusual = 0;
  int* seen = &unusual;
  typed(half, [=](auto type) {
    typedef decltype(type) T;
    const T *grad = (const T*)grad_, *x = (const T*)x_;
    T* grad_x = (T*)grad_x_;
    in_blocks(1, n, threads, [=](i64, i64 from, i64 to) {
      int here = 0;
      EACH_NUMBER {
        const float value = read(x[i]), g = read(grad[i]);
        here |= !(std::fabs(g) < 1e30f);
        write(grad_x[i], where(!((value >= top) | (value < bottom)), g));
      }
      if (above) EACH_NUMBER above[i] = where(read(x[i]) >= top, read(grad[i]));
      if (below)
        EACH_NUMBER {
          const float value = read(x[i]);
          below[i] = where((value < bottom) & !(value >= top), read(grad[i]));
        }
#pragma omp atomic
      *seen |= here;
    });
  });
  return unusual;
}

// DoReFaWeight, SATWeight: the code of (tanh / twice + 1/2) * steps, rounded, or floored and at most `high`.
void unit_codes(const float* tanh, float* codes, i64 n, float twice, float steps, int floor, float high,
                int threads) {
  in_blocks(1, n, threads, [=](i64, i64 from, i64 to) {
    if (floor) {
      EACH_NUMBER {
        const float code = std::floor((tanh[i] / twice + 0.5f) * steps);
        codes[i] = code > high ? high : code;
      }
    } else {
      EACH_NUMBER codes[i] = std::rint((tanh[i] / twice + 0.5f) * steps);
    }
  });
}

// Its gradients, first pass. share, to be summed for `twice`; returned: how many tanh are `largest` or its negative.
i64 unit_share(int half, const void* grad_, const float* tanh, float* share, i64 n, float scale, float steps,
               float twice, float largest, int threads) {
  i64 count = 0;
  i64* found = &count;
  typed(half, [=](auto type) {
    typedef decltype(type) T;
    const T* grad = (const T*)grad_;
    in_blocks(1, n, threads, [=](i64, i64 from, i64 to) {
      int here = 0;
      EACH_NUMBER {
        share[i] = -(read(grad[i]) * scale * steps) * (tanh[i] / twice / twice);
        here += std::fabs(tanh[i]) == largest;
      }
#pragma omp atomic
      *found += here;
    });
  });
  return count;
}

// Second pass. to_largest: what the gradient of `twice` gives each of the largest.
void unit_gradients(int half, const void* grad_, const float* tanh, void* grad_x_, i64 n, float scale, float steps,
                    float twice, float largest, float to_largest, int threads) {
  typed(half, [=](auto type) {
    typedef decltype(type) T;
    const T* grad = (const T*)grad_;
    T* grad_x = (T*)grad_x_;
    const bool fused = one_rounding;
    in_blocks(1, n, threads, [=](i64, i64 from, i64 to) {
      EACH_NUMBER {
        const float t = tanh[i], share = where(std::fabs(t) == largest, to_largest);
        const float whole = read(grad[i]) * scale * steps / twice + share * sign(t);
        write(grad_x[i], whole * add_product(fused, 1.f, -t, t));
      }
    });
  });
}

// NestedWeight: the codes of the highest width, divided by `shift` and rounded again, times scale * shift.
void nested(int half, const void* x_, void* out_, i64 rows, i64 length, const float* scale, const float* value,
            float shift, float lowest, float highest, float low, float high, int threads) {
  typed(half, [=](auto type) {
    typedef decltype(type) T;
    const T* x = (const T*)x_;
    T* out = (T*)out_;
    in_blocks(rows, length, threads, [=](i64 row, i64 from, i64 to) {
      const float s = scale[row], v = value[row];
      EACH_NUMBER {
        const float fine = std::rint(clamp(read(x[i]) / s, lowest, highest));
        write(out[i], std::rint(clamp(fine / shift, low, high)) * v);
      }
    });
  });
}

// Its gradients; by_value and by_scale (float32), to be summed for scale * shift and for the scale divided by.
// ends_pass: whether clamp passes the gradient of a value that is one of its bounds.
void nested_gradients(int half, const void* grad_, const void* x_, void* grad_x_, float* by_value, float* by_scale,
                      i64 rows, i64 length, const float* scale, const float* value, float shift, float lowest,
                      float highest, float low, float high, int ends_pass, int threads) {
  typed(half, [=](auto type) {
    typedef decltype(type) T;
    const T *grad = (const T*)grad_, *x = (const T*)x_;
    T* grad_x = (T*)grad_x_;
    in_blocks(rows, length, threads, [=](i64 row, i64 from, i64 to) {
      const float s = scale[row], v = value[row];
      EACH_NUMBER {
        const float g = read(grad[i]), ratio = read(x[i]) / s;
        const float coarse = std::rint(clamp(ratio, lowest, highest)) / shift;
        by_value[i] = g * std::rint(clamp(coarse, low, high));
        float passed = where(inside(coarse, low, high, ends_pass), g * v);
        passed = where(inside(ratio, lowest, highest, ends_pass), passed / shift);
        write(grad_x[i], passed / s);
        by_scale[i] = -passed * (ratio / s);
      }
    });
  });
}

}  // extern "C"
