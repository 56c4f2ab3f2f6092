// Convolution and its adjoint in x as one product of matrices, without laying the windows out (implicit GEMM).
//
//   y[position, f] = sum over k of x[input that k meets from position, k's channel] * w[f, k]      k = (t0, t1, t2, c)
//
// Rows of the product are output positions of the whole batch, columns are filters. Everything is channels-last, so a
// piece of k is a run of channels at one tap and lies in one piece in x; cp.async fetches it, or zeros where the tap
// meets padding. The adjoint is the same thing with other numbers: with stride s, the input positions i of one residue
// (i + padding) mod s form a grid of their own (a phase), which meets every (s / gcd(s, dilation))-th tap, and walks
// along y with stride 1. With stride 1 there is one phase, and w's taps are passed backwards.
//
// Blocks: (row tiles x column tiles, columns first; 1; phases x groups x splits). With several splits each sums a part
// of k into its own copy of y; finish_kernel (layout.cu) adds the copies in their order.

#include "numbers.cuh"
#include "ptx.cuh"
#include "gemm.cuh"
#include "conv_gather.cuh"

template <typename Storage, typename Result, int MATH, int TILE_M, int TILE_N, int WARPS_M, int WARPS_N, int ROW,
          int STAGES, int VECTOR>
__device__ __forceinline__ void gather(const Storage* __restrict__ x, const Storage* __restrict__ w,
                                       const Result* __restrict__ bias, Result* __restrict__ y, const Gather& g) {
    constexpr int THREADS = 32 * WARPS_M * WARPS_N;
    constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N, STAGE = (TILE_M + TILE_N) * ROW;
    static_assert(WARP_M % 8 == 0 && WARP_N % 8 == 0, "the swizzle repeats after eight rows");

    extern __shared__ __align__(16) unsigned char memory[];
    int4* const first = (int4*)(memory + STAGES * STAGE);
    int* const places = (int*)(first + TILE_M);

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Place<TILE_M, TILE_N> at(g);
    const Phase& p = g.phase[at.phase];
    if (at.m0 >= positions(g, p)) return;  // another phase has more
    locate<TILE_M, THREADS>(first, places, at.m0, g, p);
    __syncthreads();

    Parts<Storage, TILE_M, TILE_N, THREADS, ROW, VECTOR> parts(g, p, at, first, x, w);
    auto copy = [&](int step) {
        unsigned char* const a = memory + step % STAGES * STAGE;
        parts.copy_w(a + TILE_M * ROW, step);
        parts.copy_x(a);
    };

    Products<MATH, Storage, ROWS, WARP_M, WARP_N> products;
    const int m_warp = warp / WARPS_N * WARP_M, n_warp = warp % WARPS_N * WARP_N, steps = parts.steps;
#pragma unroll
    for (int step = 0; step < STAGES - 1; ++step) {
        if (step < steps) copy(step);
        cp_async_commit();
    }
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();  // this step's parts are here,
        __syncthreads();              // those of the others too, and everyone is done with the stage that comes next
        if (step + STAGES - 1 < steps) copy(step + STAGES - 1);
        cp_async_commit();
        const unsigned char* const a = memory + step % STAGES * STAGE;
        products.template rows<ROW>(a + m_warp * ROW, a + (TILE_M + n_warp) * ROW, lane);
    }

    Result* const out = result(y, g, at);
    products.each(lane, [&](int m, int n, typename decltype(products)::Sums sums) {
        const int place = places[m_warp + m], f = at.n0 + n_warp + n;
        if (place < 0) return;
        store(out + (long long)place * g.y_pitch, finished(sums, bias + at.group * g.filters, g, f), f, g.filters);
    });
}
