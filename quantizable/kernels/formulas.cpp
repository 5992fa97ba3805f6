// The formulas of single quantizers, forward and backward: see kernels/formulas.py, and loops.cpp for the arguments.

#include "numbers.h"

extern "C" {

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
