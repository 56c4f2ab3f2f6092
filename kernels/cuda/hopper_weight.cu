// The product of conv_weight.cu with Hopper's tensor cores (wgmma.cuh), for numbers of two bytes: the same sizes, the
// same copies, the same results up to the order of additions. Compiled for sm_90a. hopper_gather.cu explains the steps.
//
// The sum runs over positions, and memory has them one behind the other with filters and channels inside: rows of both
// factors run along m and n, which wgmma reads as well. 64 columns are 128 bytes, a row of the swizzle; the next 64
// begin behind all positions of a step.

#include "numbers.cuh"
#include "ptx.cuh"
#include "gemm.cuh"
#include "wgmma.cuh"
#include "conv_weight.cuh"

template <int DEPTH> struct Blocked {  // rows of 128 bytes, swizzled, in blocks of DEPTH
    static __device__ __forceinline__ int at(int row, int byte) {
        return byte / 128 * (DEPTH * 128) + swizzled<128>(row, byte % 128);
    }
};

template <typename Storage, typename Result, int MATH, int TILE_M, int TILE_N, int GROUPS_M, int GROUPS_N, int STAGES,
          int VECTOR>
__device__ __forceinline__ void weight(const Storage* __restrict__ x, const Storage* __restrict__ y,
                                       Result* __restrict__ w, const Weight& g) {
    constexpr int THREADS = 128 * GROUPS_M * GROUPS_N, SIZE = sizeof(Storage), DEPTH = 128 / SIZE, AHEAD = STAGES - 2;
    constexpr int GROUP_M = TILE_M / GROUPS_M, GROUP_N = TILE_N / GROUPS_N;
    constexpr int BLOCK = DEPTH * 128, STAGE = DEPTH * (TILE_M + TILE_N) * SIZE;
    static_assert(AHEAD > 0, "two stages are being read");
    static_assert(TILE_M % 64 == 0 && TILE_N % 64 == 0, "whole blocks");

    extern __shared__ __align__(1024) unsigned char memory[];  // 1024: the swizzle is one of addresses
    using Copies = Positions<Storage, TILE_M, TILE_N, THREADS, DEPTH, VECTOR, Blocked<DEPTH>, Blocked<DEPTH>>;
    Copies positions(g, (int4*)(memory + STAGES * STAGE), x, y);
    auto copy = [&](int step) {
        unsigned char* const a = memory + step % STAGES * STAGE;
        positions.copy(a, a + DEPTH * TILE_M * SIZE, step);
    };

    const int warpgroup = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);  // one number for the warp: uniform
    const int m_group = warpgroup / GROUPS_N * GROUP_M, n_group = warpgroup % GROUPS_N * GROUP_N;
    const int steps = positions.steps;
    WarpgroupProducts<MATH, COLUMNS, GROUP_M, GROUP_N> products;
#pragma unroll
    for (int step = 0; step <= AHEAD; ++step) {  // the last turn only locates: its copy comes after the first barrier
        positions.locate(step);
        __syncthreads();
        if (step == AHEAD) break;
        if (step < steps) copy(step);
        cp_async_commit();
    }
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<AHEAD - 1>();  // this step's parts are here,
        fence_proxy_async();         // for the tensor cores to see,
        __syncthreads();             // those of the others too, and everyone is done with step - 2
        const unsigned char* const a = memory + step % STAGES * STAGE;
        const unsigned char* const b = a + DEPTH * TILE_M * SIZE;
        products.begin(a + m_group / 64 * BLOCK, b + n_group / 64 * BLOCK, BLOCK, step > 0);
        if (step + AHEAD < steps) copy(step + AHEAD);  // where step - 2 was
        cp_async_commit();
        positions.locate(step + AHEAD + 1);  // into the table that nobody reads before the next barrier
        products.end();
    }

    Result* const out = positions.result(w);
    auto finish = [](int, Run<float, 2> sums) { return sums; };
    products.template each<Result>(steps > 0, finish, [&](int m, int n, Run<float, 2> sums) {
        const int f = positions.m0 + m_group + m, columns = positions.columns;
        if (f < g.filters) store(out + (long long)f * columns, sums, positions.n0 + n_group + n, columns);
    });
}
