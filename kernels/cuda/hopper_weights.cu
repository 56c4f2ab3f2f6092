// The weights of a product with TF32, rounded before the kernel reads them: once, not once for every block. The large
// parts first; with 3xTF32 the small parts behind them, w = large + small to 21 bits or more.

#include "ptx.cuh"

extern "C" __global__ void round_kernel(const float* __restrict__ w, float* __restrict__ out, const long long size,
                                        const int copies) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= size) return;
    const float large = __int_as_float((int)round_tf32(w[index]));
    out[index] = large;
    if (copies > 1) out[size + index] = __int_as_float((int)round_tf32(w[index] - large));
}
