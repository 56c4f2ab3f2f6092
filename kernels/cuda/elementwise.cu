// The gradients of the bias and ReLU behind a convolution, in one pass; gelu and its gradient. The specifications are
// ../reference/conv.py (conv_relu_slope) and ../reference/elementwise.py, the same kernels in Python are
// ../numba_cuda/elementwise.py.

#include "numbers.cuh"
#include "scalar.cuh"
#include "channels.cuh"

struct Sum {
    Scalar value;

    __device__ void clear() { value = 0; }
    __device__ void join(const Sum& other) { value += other.value; }
};

// gz = g where y > 0 (or NaN), else 0; and its sum over each channel, the gradient of the bias.
extern "C" __global__ void __launch_bounds__(THREADS)
relu_slope_kernel(const Storage* __restrict__ g, const Storage* __restrict__ y, Storage* __restrict__ gz,
                  Scalar* __restrict__ parts, const Shape s) {
    Sum own;
    own.clear();
    for_own_elements(s, [&](long long at) {
        const Scalar slope = read(y[at]) <= 0 ? 0 : read(g[at]);
        gz[at] = stored(slope);
        own.value += slope;
    });
    leave(own, parts, s);
}

extern "C" __global__ void __launch_bounds__(THREADS)
relu_slope_finish_kernel(const Scalar* __restrict__ parts, Scalar* __restrict__ gb, const Shape s) {
    const Sum all = collected<Sum>(parts, blockIdx.x, s.parts);
    if (threadIdx.x == 0) gb[blockIdx.x] = all.value;
}

// ---- gelu: x P(x), where P is the standard normal distribution, as max(x, 0) - |x| P(-|x|); NaN stays NaN
__device__ inline Scalar within(Scalar a, Scalar end) { return a < -end ? -end : a > end ? end : a; }
__device__ inline Scalar tail(Scalar z) { return Scalar(0.5) * erfc(z * Scalar(0.70710678118654752)); }  // P(-z)

constexpr Scalar FAR = 40;  // P is 0 or 1 there, and further out, and tanh of what gelu_tanh takes it of 1 or -1

extern "C" __global__ void gelu_kernel(const Storage* __restrict__ x, Storage* __restrict__ y,
                                       const long long elements) {
    const long long i = element_index();
    if (i >= elements) return;
    const Scalar a = read(x[i]), z = within(a < 0 ? -a : a, FAR);
    y[i] = stored((a < 0 ? 0 : a) - z * tail(z));
}

// g (P(x) + x p(x)), where p is the density of the standard normal distribution.
extern "C" __global__ void gelu_gradient_kernel(const Storage* __restrict__ g, const Storage* __restrict__ x,
                                                Storage* __restrict__ gx, const long long elements) {
    const long long i = element_index();
    if (i >= elements) return;
    const Scalar a = read(x[i]), z = within(a < 0 ? -a : a, FAR);
    const Scalar lower = z * exp(Scalar(-0.5) * z * z) * Scalar(0.39894228040143268) - tail(z);
    gx[i] = stored(read(g[i]) * (a < 0 ? -lower : 1 + lower));
}

// ---- its approximation: x (1 + tanh(u)) / 2 with u = x (A + B x²)
constexpr Scalar A = 0.79788456080286536, B = A * Scalar(0.044715);  // A = sqrt(2 / pi)

extern "C" __global__ void gelu_tanh_kernel(const Storage* __restrict__ x, Storage* __restrict__ y,
                                            const long long elements) {
    const long long i = element_index();
    if (i >= elements) return;
    const Scalar a = read(x[i]), near = within(a, FAR);
    y[i] = stored((a < 0 ? near : a) * (Scalar(0.5) * (1 + tanh(near * (A + B * near * near)))));
}

extern "C" __global__ void gelu_tanh_gradient_kernel(const Storage* __restrict__ g, const Storage* __restrict__ x,
                                                     Storage* __restrict__ gx, const long long elements) {
    const long long i = element_index();
    if (i >= elements) return;
    const Scalar near = within(read(x[i]), FAR), square = near * near, t = tanh(near * (A + B * square));
    const Scalar slope = near * (1 - t * t) * (A + 3 * B * square);
    gx[i] = stored(read(g[i]) * (Scalar(0.5) * (1 + t + slope)));
}
