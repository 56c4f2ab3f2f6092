// The gradient of a convolution's weight as a product of matrices, without laying the windows out.
//
//   w[f, k] = sum over positions of y[position, f] * x[input that k meets from position, k's channel]
//   k = (t0, t1, t2, c)
//
// The sum runs over all output positions of the batch: long, while w is small. So it is cut into splits, which are
// summed side by side into copies of w (split-K); finish_weight_kernel (layout.cu) adds the copies in their order. No
// sum depends on which block was faster, so the bits are the same in every run.
//
// Blocks: (row tiles x column tiles; 1; groups x splits).

#include "numbers.cuh"
#include "ptx.cuh"
#include "gemm.cuh"
#include "conv_weight.cuh"

template <int PITCH> struct Padded {  // a row of the layout COLUMNS
    static __device__ __forceinline__ int at(int row, int byte) { return row * PITCH + byte; }
};

template <typename Storage, typename Result, int MATH, int TILE_M, int TILE_N, int WARPS_M, int WARPS_N, int ROW,
          int STAGES, int VECTOR>
__device__ __forceinline__ void weight(const Storage* __restrict__ x, const Storage* __restrict__ y,
                                       Result* __restrict__ w, const Weight& g) {
    constexpr int THREADS = 32 * WARPS_M * WARPS_N, SIZE = sizeof(Storage), DEPTH = ROW / SIZE;
    constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
    constexpr int A_PITCH = TILE_M * SIZE + PAD<MATH>, B_PITCH = TILE_N * SIZE + PAD<MATH>;
    constexpr int STAGE = DEPTH * (A_PITCH + B_PITCH);

    extern __shared__ __align__(16) unsigned char memory[];
    using Copies = Positions<Storage, TILE_M, TILE_N, THREADS, DEPTH, VECTOR, Padded<A_PITCH>, Padded<B_PITCH>>;
    Copies positions(g, (int4*)(memory + STAGES * STAGE), x, y);
    auto copy = [&](int step) {
        unsigned char* const a = memory + step % STAGES * STAGE;
        positions.copy(a, a + DEPTH * A_PITCH, step);
    };

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, steps = positions.steps;
    Products<MATH, Storage, COLUMNS, WARP_M, WARP_N> products;
    const int m_warp = warp / WARPS_N * WARP_M, n_warp = warp % WARPS_N * WARP_N;
#pragma unroll
    for (int step = 0; step < STAGES; ++step) {  // the last turn only locates: its copy comes after the first barrier
        positions.locate(step);
        __syncthreads();
        if (step == STAGES - 1) break;
        if (step < steps) copy(step);
        cp_async_commit();
    }
    for (int step = 0; step < steps; ++step) {
        cp_async_wait<STAGES - 2>();  // this step's parts are here,
        __syncthreads();              // those of the others too, and everyone is done with the stage that comes next
        if (step + STAGES - 1 < steps) copy(step + STAGES - 1);
        cp_async_commit();
        positions.locate(step + STAGES);  // into the table that nobody reads before the next barrier
        const unsigned char* const a = memory + step % STAGES * STAGE;
        const unsigned char* const b = a + DEPTH * A_PITCH;
        products.template columns<DEPTH>(a + m_warp * SIZE, A_PITCH, b + n_warp * SIZE, B_PITCH, lane);
    }

    Result* const out = positions.result(w);
    products.each(lane, [&](int m, int n, typename decltype(products)::Sums sums) {
        const int f = positions.m0 + m_warp + m, columns = positions.columns;
        if (f < g.filters) store(out + (long long)f * columns, sums, positions.n0 + n_warp + n, columns);
    });
}
