// The instructions of kernels/cuda/ptx.cuh by themselves: for the host shim (test_cuda_host_conv.py) and a device
// (tests/gpu/test_products.py), which must agree.
#include "numbers.cuh"
#include "ptx.cuh"
extern "C" __global__ void late(const float* x, float* y, const int wait) {
    __shared__ __align__(16) float a[128];
    cp_async<16>(a + 4 * threadIdx.x, x + 4 * threadIdx.x, threadIdx.x % 2 == 0);
    cp_async_commit();
    if (wait) cp_async_wait<0>();
    for (int i = 0; i < 4; ++i) y[4 * threadIdx.x + i] = a[4 * threadIdx.x + i];
}
extern "C" __global__ void crooked(const float* x, float* y) {
    __shared__ __align__(16) float a[8];
    cp_async<16>(a + 1, x, true);
}
extern "C" __global__ void product(const unsigned* a, const unsigned* b, float* d, const int kind) {
    const int lane = threadIdx.x, g = lane / 4, t = lane % 4;  // a: 16 rows of 8 words, b: 8 rows of 8 words (columns)
    unsigned left[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};
    unsigned right[2] = {b[g * 8 + t], b[g * 8 + t + 4]};
    float sum[4] = {0, 0, 0, 0};
    if (kind == 0) mma_tf32(sum, left, right);
    if (kind == 1) mma_f16(sum, left, right);
    if (kind == 2) mma_bf16(sum, left, right);
    for (int e = 0; e < 4; ++e) d[(g + e / 2 * 8) * 8 + t * 2 + e % 2] = sum[e];
}
extern "C" __global__ void matrices(const unsigned short* x, unsigned* plain, unsigned* transposed) {
    __shared__ __align__(16) unsigned short a[32][8];
    for (int i = 0; i < 8; ++i) a[threadIdx.x][i] = x[threadIdx.x * 8 + i];
    __syncthreads();
    unsigned r[4];
    ldmatrix(r[0], r[1], r[2], r[3], a[threadIdx.x]);
    for (int i = 0; i < 4; ++i) plain[i * 32 + threadIdx.x] = r[i];
    ldmatrix_trans(r[0], r[1], r[2], r[3], a[threadIdx.x]);
    for (int i = 0; i < 4; ++i) transposed[i * 32 + threadIdx.x] = r[i];
}
extern "C" __global__ void through(const Half* x, Half* y, Bfloat16* z, float* wide, float* rounded) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    const float value = widen(x[i]);
    y[i] = narrow<Half>(value * (1 + 3e-4f));
    z[i] = narrow<Bfloat16>(value);
    wide[i] = widen(z[i]);
    rounded[i] = __int_as_float((int)round_tf32(value * 1.0001f));
}
