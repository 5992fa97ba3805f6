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
        EACH_NUMBER {
          const float g = read(grad[i]);
          write(grad_x[i], where(passes(read(x[i])), g));
        }
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
        float code = std::floor((tanh[i] / twice + 0.5f) * steps);
        code = code > high ? high : code;
        codes[i] = code;
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
