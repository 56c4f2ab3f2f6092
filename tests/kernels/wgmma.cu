// The instructions of kernels/cuda/wgmma.cuh and tma.cuh by themselves: for the host shim (test_cuda_hopper.py)
// and a device (tests/gpu/test_wgmma.py), which must agree.
#include "numbers.cuh"
#include "ptx.cuh"
#include "gemm.cuh"
#include "wgmma.cuh"
#include "tma.cuh"

// A 64 x 64 product. image: what shared memory holds. a, b: descriptors whose addresses begin at 0 there; `next` units
// of 16 bytes further are those of the next of `steps` products. With kind 5 the address of a is that of rows for
// ldmatrix. d: of each thread its 32 sums, as they are.
extern "C" __global__ void products(const unsigned* image, const int size, float* d, Bits64 a, Bits64 b, const int next,
                                    const int steps, const int kind) {
    extern __shared__ __align__(1024) unsigned char memory[];
    for (int i = threadIdx.x; i < size / 4; i += 128) ((unsigned*)memory)[i] = image[i];
    fence_proxy_async();
    __syncthreads();
    const Bits64 base = shared_address(memory) >> 4;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum[32] = {};
    for (int step = 0; step < steps; ++step) {
        const Bits64 left = base + a + step * next, right = base + b + step * next;
        unsigned r[4] = {};
        if (kind == 5)
            ldmatrix(r[0], r[1], r[2], r[3], memory + ((a & 0x3fff) << 4) +
                                                 swizzled<128>(warp * 16 + lane % 16, step * 32 + lane / 16 * 16));
        wgmma_fence();
        if (kind == 0) wgmma_tf32(sum, left, right, 1);
        if (kind == 1) wgmma_f16(sum, left, right, 1);
        if (kind == 2) wgmma_bf16(sum, left, right, 1);
        if (kind == 3) wgmma_f16_columns(sum, left, right, 1);
        if (kind == 4) wgmma_bf16_columns(sum, left, right, 1);
        if (kind == 5) wgmma_tf32(sum, r, right, 1);
        wgmma_commit();
        wgmma_wait<0>();
    }
    settle(sum);
    for (int i = 0; i < 32; ++i) d[threadIdx.x * 32 + i] = sum[i];
}

// What one copy of the tensor memory accelerator leaves in shared memory: `size` bytes. im2col: pixels from (c, w, h,
// d, n) on, moved by `off`; else a box from (c, w, h) on.
extern "C" __global__ void copied(const __grid_constant__ TensorMap map, unsigned* out, const int size,
                                  const int im2col, const int c, const int w, const int h, const int d, const int n,
                                  const int off_w, const int off_h, const int off_d) {
    extern __shared__ __align__(1024) unsigned char memory[];
    Barrier* const full = (Barrier*)(memory + size);
    if (threadIdx.x == 0) {
        barrier_init(full, 1);
        barrier_fence();
        barrier_expect(full, size);
        if (im2col) copy_pixels(memory, map, full, c, w, h, d, n, off_w, off_h, off_d);
        else copy_box(memory, map, full, c, w, h);
    }
    __syncthreads();
    barrier_wait(full, 0);
    for (int i = threadIdx.x; i < size / 4; i += 128) out[i] = ((unsigned*)memory)[i];
}
