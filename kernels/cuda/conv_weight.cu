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

// plan.py fills this: WEIGHT there lists the same fields in the same order.
struct Weight {
    int batch, groups, splits;
    int channels, filters;  // of a group; channels as x has them, padded
    int x_pitch, y_pitch;   // elements from position to position
    int y_filters;          // of a group, as y has them, padded
    int slice;              // positions in a split, a multiple of DEPTH
    int input[3], output[3], kernel[3], stride[3], padding[3], dilation[3];
};

template <typename Storage, typename Result, int MATH, int TILE_M, int TILE_N, int WARPS_M, int WARPS_N, int ROW,
          int STAGES, int VECTOR>
__device__ __forceinline__ void weight(const Storage* __restrict__ x, const Storage* __restrict__ y,
                                       Result* __restrict__ w, const Weight& g) {
    constexpr int THREADS = 32 * WARPS_M * WARPS_N, SIZE = sizeof(Storage), DEPTH = ROW / SIZE;
    constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
    constexpr int A_PITCH = TILE_M * SIZE + PAD<MATH>, B_PITCH = TILE_N * SIZE + PAD<MATH>;
    constexpr int STAGE = DEPTH * (A_PITCH + B_PITCH);
    constexpr int WHOLE = TILE_M * SIZE / 16, PIECES = TILE_N * SIZE / VECTOR;  // copies to fill a row of y, of x
    static_assert(THREADS % PIECES == 0, "a thread copies the same column of every row");

    extern __shared__ __align__(16) unsigned char memory[];
    int4* const table = (int4*)(memory + STAGES * STAGE);  // of each position: the first input, and where it lies in x

    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int split = blockIdx.z % g.splits, group = blockIdx.z / g.splits;
    const int taps = g.kernel[0] * g.kernel[1] * g.kernel[2], columns = taps * g.channels;
    const int column_tiles = (columns + TILE_N - 1) / TILE_N;
    const int m0 = blockIdx.x / column_tiles * TILE_M, n0 = blockIdx.x % column_tiles * TILE_N;
    const int positions = g.batch * g.output[0] * g.output[1] * g.output[2];
    const int begin = (int)min((long long)split * g.slice, (long long)positions);
    const int end = (int)min((long long)begin + g.slice, (long long)positions);
    const int steps = (end - begin + DEPTH - 1) / DEPTH;

    // The column of x this thread copies stays the same; the positions move on with every step.
    const int piece = thread % PIECES, k = n0 + piece * (VECTOR / SIZE), tap = k / g.channels;
    const int d0 = tap / g.kernel[2] / g.kernel[1] * g.dilation[0];
    const int d1 = tap / g.kernel[2] % g.kernel[1] * g.dilation[1], d2 = tap % g.kernel[2] * g.dilation[2];
    const int shift = (d0 * g.input[1] + d1) * g.input[2] + d2;
    const Storage* const x_group = x + group * g.channels + k % g.channels;
    const Storage* const y_group = y + group * g.y_filters;

    auto locate = [&](int step) {  // fills one of the two tables
        for (int i = thread; i < DEPTH; i += THREADS) {
            const int q = begin + step * DEPTH + i;
            const int q2 = q % g.output[2], q1 = q / g.output[2] % g.output[1], q01 = q / g.output[2] / g.output[1];
            int4 at;
            at.y = q01 % g.output[0] * g.stride[0] - g.padding[0];
            at.z = q1 * g.stride[1] - g.padding[1];
            at.w = q2 * g.stride[2] - g.padding[2];
            at.x = ((q01 / g.output[0] * g.input[0] + at.y) * g.input[1] + at.z) * g.input[2] + at.w;
            table[step % 2 * DEPTH + i] = at;
        }
    };
    auto copy = [&](int step) {
        unsigned char* const a = memory + step % STAGES * STAGE;
        unsigned char* const b = a + DEPTH * A_PITCH;
#pragma unroll
        for (int i = thread; i < DEPTH * WHOLE; i += THREADS) {
            const int row = i / WHOLE, f = m0 + i % WHOLE * (16 / SIZE), q = begin + step * DEPTH + row;
            const bool inside = q < end && f < g.y_filters;
            const Storage* from = inside ? y_group + (long long)q * g.y_pitch + f : y;
            cp_async<16>(a + row * A_PITCH + i % WHOLE * 16, from, inside);
        }
#pragma unroll
        for (int row = thread / PIECES; row < DEPTH; row += THREADS / PIECES) {
            const int4 at = table[step % 2 * DEPTH + row];
            const bool inside = begin + step * DEPTH + row < end && k < columns &&
                                (unsigned)(at.y + d0) < (unsigned)g.input[0] &&
                                (unsigned)(at.z + d1) < (unsigned)g.input[1] &&
                                (unsigned)(at.w + d2) < (unsigned)g.input[2];
            const Storage* from = inside ? x_group + (long long)(at.x + shift) * g.x_pitch : x;
            cp_async<VECTOR>(b + row * B_PITCH + piece * VECTOR, from, inside);
        }
    };

    Products<MATH, Storage, COLUMNS, WARP_M, WARP_N> products;
    const int m_warp = warp / WARPS_N * WARP_M, n_warp = warp % WARPS_N * WARP_N;
#pragma unroll
    for (int step = 0; step < STAGES; ++step) {  // the last turn only locates: its copy comes after the first barrier
        locate(step);
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
        locate(step + STAGES);  // into the table that nobody reads before the next barrier
        const unsigned char* const a = memory + step % STAGES * STAGE;
        const unsigned char* const b = a + DEPTH * A_PITCH;
        products.template columns<DEPTH>(a + m_warp * SIZE, A_PITCH, b + n_warp * SIZE, B_PITCH, lane);
    }

    Result* const out = w + ((long long)split * g.groups + group) * g.filters * columns;
    products.each(lane, [&](int m, int n, typename decltype(products)::Sums sums) {
        const int f = m0 + m_warp + m;
        if (f < g.filters) store(out + (long long)f * columns, sums, n0 + n_warp + n, columns);
    });
}
