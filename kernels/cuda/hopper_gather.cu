// The product of conv_gather.cu with Hopper's tensor cores (wgmma.cuh): the same sizes, the same copies, the same
// results up to the order of additions. Compiled for sm_90a.
//
// All threads copy and all multiply. Products are begun, not waited for: while they run, the threads bring the parts of
// a later step, and the products of the next step stand in line behind them. So two stages are being read, and copies
// go into the others.

#include "numbers.cuh"
#include "ptx.cuh"
#include "gemm.cuh"
#include "wgmma.cuh"
#include "conv_gather.cuh"

// GROUPS_M x GROUPS_N warpgroups. For 3xTF32 w has two copies, its large and its small parts, `apart` elements apart.
template <typename Storage, typename Result, int MATH, int TILE_M, int TILE_N, int GROUPS_M, int GROUPS_N, int STAGES,
          int VECTOR>
__device__ __forceinline__ void gather(const Storage* __restrict__ x, const Storage* __restrict__ w,
                                       const Result* __restrict__ bias, Result* __restrict__ y, const long long apart,
                                       const Gather& g) {
    constexpr int THREADS = 128 * GROUPS_M * GROUPS_N, ROW = 128, COPIES = MATH == TF32X3 ? 2 : 1;
    constexpr int GROUP_M = TILE_M / GROUPS_M, GROUP_N = TILE_N / GROUPS_N;
    constexpr int STAGE = (TILE_M + COPIES * TILE_N) * ROW, AHEAD = STAGES - 2;
    static_assert(AHEAD > 0, "two stages are being read");

    extern __shared__ __align__(1024) unsigned char memory[];  // 1024: the swizzle is one of addresses
    int4* const first = (int4*)(memory + STAGES * STAGE);
    int* const places = (int*)(first + TILE_M);

    const Place<TILE_M, TILE_N> at(g);
    const Phase& p = g.phase[at.phase];
    if (at.m0 >= positions(g, p)) return;  // another phase has more
    locate<TILE_M, THREADS>(first, places, at.m0, g, p);
    __syncthreads();

    Parts<Storage, TILE_M, TILE_N, THREADS, ROW, VECTOR> parts(g, p, at, first, x, w);
    auto copy = [&](int step) {
        unsigned char* const a = memory + step % STAGES * STAGE;
        parts.copy_x(a);
#pragma unroll
        for (int i = 0; i < COPIES; ++i) parts.copy_w(a + (TILE_M + i * TILE_N) * ROW, step, i * apart);
    };

    const int warpgroup = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);  // one number for the warp: uniform
    const int m_group = warpgroup / GROUPS_N * GROUP_M, n_group = warpgroup % GROUPS_N * GROUP_N;
    WarpgroupProducts<MATH, ROWS, GROUP_M, GROUP_N> products;
    const int steps = parts.steps;
#pragma unroll
    for (int step = 0; step < AHEAD; ++step) {
        if (step < steps) copy(step);
        cp_async_commit();
    }
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<AHEAD - 1>();  // this step's parts are here,
        fence_proxy_async();         // for the tensor cores to see,
        __syncthreads();             // those of the others too, and everyone is done with step - 2
        const unsigned char* const a = memory + step % STAGES * STAGE;
        products.begin(a + m_group * ROW, a + (TILE_M + n_group) * ROW, TILE_N * ROW, step > 0);
        if (step + AHEAD < steps) copy(step + AHEAD);  // where step - 2 was
        cp_async_commit();
        products.end();
    }

    Result* const out = result(y, g, at);
    auto finish = [&](int n, Run<float, 2> sums) {
        return finished(sums, bias + at.group * g.filters, g, at.n0 + n_group + n);
    };
    products.template each<Result>(steps > 0, finish, [&](int m, int n, Written<Result> run) {
        const int place = places[m_group + m];
        if (place >= 0) store(out + (long long)place * g.y_pitch, run, at.n0 + n_group + n, g.filters);
    });
}
