// The gradients of the bias and ReLU behind a convolution, in one pass. The specification is ../reference/conv.py
// (conv_relu_slope), the same kernels in Python are ../numba_cuda/elementwise.py.

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
