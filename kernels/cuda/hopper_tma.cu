// The product of conv_gather.cu with Hopper's tensor cores, its parts brought by the tensor memory accelerator
// (tma.cuh). Compiled for sm_90a.
//
// One warpgroup brings, the others multiply. A full and an empty barrier for each stage carry the steps between them:
// the bringing thread waits until a stage is empty, announces the bytes to its full barrier, and asks for two boxes; a
// multiplying warp waits until it is full, and arrives at the empty barrier once its products have read it. So nobody
// computes addresses of pixels, and no barrier stops all threads.
//
// The map of x is of kind im2col: its bounding box holds the input positions that the first tap meets (in the order of
// the taps' offsets, which grow), in steps of the stride, and rows of the product are consecutive pixels in it. k is
// walked tap by tap in pieces of 128 bytes of channels; what a piece has beyond the last channel is zero in both
// factors. One group, one phase.

#include "numbers.cuh"
#include "ptx.cuh"
#include "gemm.cuh"
#include "wgmma.cuh"
#include "tma.cuh"
#include "conv_gather.cuh"

template <typename Storage, typename Result, int MATH, int TILE_M, int TILE_N, int GROUPS_M, int GROUPS_N, int STAGES>
__device__ __forceinline__ void gather(const TensorMap& x, const TensorMap& w, const Result* __restrict__ bias,
                                       Result* __restrict__ y, const Gather& g) {
    constexpr int GROUPS = GROUPS_M * GROUPS_N, ROW = 128, DEPTH = ROW / sizeof(Storage);
    constexpr int GROUP_M = TILE_M / GROUPS_M, GROUP_N = TILE_N / GROUPS_N, STAGE = (TILE_M + TILE_N) * ROW;
    constexpr int BRINGING = 40, MULTIPLYING = GROUPS == 1 ? 240 : 232;  // registers: of 65536 for the block

    extern __shared__ __align__(1024) unsigned char memory[];  // 1024: the swizzle is one of addresses
    int4* const first = (int4*)(memory + STAGES * STAGE);
    int* const places = (int*)(first + TILE_M);
    Barrier* const full = (Barrier*)(places + TILE_M);
    Barrier* const empty = full + STAGES;

    const Place<TILE_M, TILE_N> at(g);
    const Phase& p = g.phase[at.phase];
    locate<TILE_M, 128 * (GROUPS + 1)>(first, places, at.m0, g, p);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; ++stage) {
            barrier_init(full + stage, 1);
            barrier_init(empty + stage, 4 * GROUPS);
        }
        barrier_fence();
    }
    __syncthreads();

    const int pieces = (g.channels + DEPTH - 1) / DEPTH, all = p.taps[0] * p.taps[1] * p.taps[2] * pieces;
    const int begin = min(all, at.split * g.slice), steps = min(all, begin + g.slice) - begin;
    const int warpgroup = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);  // one number for the warp: uniform
    if (warpgroup == GROUPS) {
        fewer_registers<BRINGING>();
        if (threadIdx.x != GROUPS * 128) return;
        int q = at.m0, pixel[3];
        for (int axis = 2; axis >= 0; --axis) {  // in the box: from the first position that a tap meets
            const int reach = (p.taps[axis] - 1) * g.dilation[axis];
            pixel[axis] = q % p.size[axis] * g.stride[axis] + p.origin[axis] + min(reach, 0);
            q /= p.size[axis];
        }
        for (int step = 0; step < steps; ++step) {
            const int stage = step % STAGES, tap = (begin + step) / pieces, c = (begin + step) % pieces * DEPTH;
            const int t[3] = {tap / p.taps[2] / p.taps[1], tap / p.taps[2] % p.taps[1], tap % p.taps[2]};
            int off[3];
            for (int axis = 0; axis < 3; ++axis)
                off[axis] = g.dilation[axis] < 0 ? (t[axis] - p.taps[axis] + 1) * g.dilation[axis]
                                                 : t[axis] * g.dilation[axis];
            unsigned char* const a = memory + stage * STAGE;
            barrier_wait(empty + stage, step / STAGES % 2 ^ 1);
            barrier_expect(full + stage, STAGE);
            copy_pixels(a, x, full + stage, c, pixel[2], pixel[1], pixel[0], q, off[2], off[1], off[0]);
            copy_box(a + TILE_M * ROW, w, full + stage, c, tap, at.n0);
        }
    } else {
        more_registers<MULTIPLYING>();
        const int m_group = warpgroup / GROUPS_N * GROUP_M, n_group = warpgroup % GROUPS_N * GROUP_N;
        WarpgroupProducts<MATH, ROWS, GROUP_M, GROUP_N, true> products;
        for (int step = 0; step < steps; ++step) {
            const unsigned char* const a = memory + step % STAGES * STAGE;
            barrier_wait(full + step % STAGES, step / STAGES % 2);
            products.begin(a + m_group * ROW, a + (TILE_M + n_group) * ROW, 0, step > 0);
            products.end();  // the step before is done: its stage may be filled again
            if (step > 0 && threadIdx.x % 32 == 0) barrier_arrive(empty + (step - 1) % STAGES);
        }
        Result* const out = result(y, g, at);
        auto finish = [&](int n, Run<float, 2> sums) { return finished(sums, bias, g, at.n0 + n_group + n); };
        products.template each<Result>(steps > 0, finish, [&](int m, int n, Written<Result> run) {
            const int place = places[m_group + m];
            if (place >= 0) store(out + (long long)place * g.y_pitch, run, at.n0 + n_group + n, g.filters);
        });
    }
}
