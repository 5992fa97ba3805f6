// The elementwise work of fake quantization, forward and backward, in one pass over memory each.
//
// Every function gives, bit for bit, what the operations of torch give that it stands for: the same operations
// in the same order in float32, each result of the type that torch would store. Sums are left to torch.
//
// A tensor is a pointer to `rows` times `length` numbers in the order of memory, with one step size a row. If
// `half` is not 0 the numbers are bfloat16, else float32. A null pointer stands for what is not wanted.

#include "sums.h"

extern "C" {
int one_rounding = 1;
int lanes_of_torch = 16;
int rows_as_torch = 1;  // 1: sums of rows are known to be torch's, too
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
      const float s = step_size(scale[row]);
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

// A ReLU and the quantizer behind it: relu = clamp(x, 0, top), out = clamp(round(relu / scale), 0, high) * scale.
// `relu` may be x itself.
void fused_relu(int half, const void* x_, void* relu_, void* out_, i64 n, const float* scale, float high, float top,
                int threads) {
  typed(half, [=](auto type) {
    typedef decltype(type) T;
    const float s = step_size(*scale);
    const T* x = (const T*)x_;
    T *relu = (T*)relu_, *out = (T*)out_;
    in_blocks(1, n, threads, [=](i64, i64 from, i64 to) {
      EACH_NUMBER {
        const float value = clamp(read(x[i]), 0.f, top);
        write(relu[i], value);
        write(out[i], clamp(std::rint(value / s), 0.f, high) * s);
      }
    });
  });
}

// Gradients of fake_quantize. grad_x: grad where low < x / scale + zero < high, else 0; without a scale, x itself is
// compared.
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
      const float s = scale ? step_size(scale[row]) : 1.f, z = zero ? zero[row] : 0.f;
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

// The same of float32 with one scale, where x itself is compared. grad_scale gets its gradient, the sum of share / scale
// * factor (its negative where there is no out); parts, as many zeros as threads, what sum_parts makes.
void fake_quantize_gradients_summed(const float* grad, const float* x, const float* out, float* grad_x, float* parts,
                                    float* grad_scale, i64 n, const float* scale, float low_code, float high_code,
                                    float factor, int threads) {
  const float s = step_size(*scale), low = float(double(low_code) * s), high = float(double(high_code) * s);
  auto pass = [=](i64 i) { return grad_x[i] = where((x[i] > low) & (x[i] < high), grad[i]); };
  if (out) {
    const bool fused = one_rounding;
    sum_parts(parts, n, threads, [=](i64 i) { return add_product(fused, grad[i] * out[i], -pass(i), x[i]); });
  } else {
    sum_parts(parts, n, threads, [=](i64 i) { return pass(i) * x[i]; });
  }
  const float sum = row_sum(0, threads, [=](i64 i) { return parts[i]; });
  *grad_scale = (out ? sum : -sum) / s * factor;
}

// The same of float32 with one scale a row, where codes are compared.
void fake_quantize_gradients_of_rows(const float* grad, const float* x, const float* out, float* grad_x,
                                     float* grad_scale, i64 rows, i64 length, const float* scale, float low,
                                     float high, float factor, int threads) {
  const bool fused = one_rounding;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && rows * length > 32768)
  for (i64 row = 0; row < rows; row++) {
    const float s = step_size(scale[row]);
    const float sum = row_sum(row * length, (row + 1) * length, [=](i64 i) {
      const float code = x[i] / s, passed = grad_x[i] = where((code > low) & (code < high), grad[i]);
      return add_product(fused, grad[i] * out[i], -passed, x[i]);
    });
    grad_scale[row] = sum / s * factor;
  }
}

}  // extern "C"
