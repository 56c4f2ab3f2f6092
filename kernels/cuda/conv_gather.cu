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

// plan.py fills these: PHASE and GATHER there list the same fields in the same order.
struct Phase {
    int size[3];    // its output positions on each axis
    int first[3];   // the first of them; the q-th is first + q * step
    int origin[3];  // input position that its tap 0 meets from its position 0
    int taps[3];
    int weights;    // where its filters begin in w, counted in elements
    int pitch;      // elements from filter to filter
};

struct Gather {
    int batch, groups, phases, splits;
    int channels, filters;    // of a group; channels as x has them, padded
    int x_pitch, y_pitch;     // elements from position to position
    int slice;                // steps of k in a split
    int has_bias, relu;
    int input[3], output[3];
    int stride[3], dilation[3];  // of input positions: from one output position to the next, from one tap to the next
    int step[3];
    Phase phase[27];
};

constexpr int OUTSIDE = -(1 << 30);  // an input position that no tap brings back inside

template <typename Storage, typename Result, int MATH, int TILE_M, int TILE_N, int WARPS_M, int WARPS_N, int ROW,
          int STAGES, int VECTOR>
__device__ __forceinline__ void gather(const Storage* __restrict__ x, const Storage* __restrict__ w,
                                       const Result* __restrict__ bias, Result* __restrict__ y, const Gather& g) {
    constexpr int THREADS = 32 * WARPS_M * WARPS_N, SIZE = sizeof(Storage), DEPTH = ROW / SIZE;
    constexpr int WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N, STAGE = (TILE_M + TILE_N) * ROW;
    constexpr int PIECES = ROW / VECTOR, WHOLE = ROW / 16;  // copies to fill a row of x, of w
    static_assert(THREADS % PIECES == 0, "a thread copies the same column of every row");
    static_assert(WARP_M % 8 == 0 && WARP_N % 8 == 0, "the swizzle repeats after eight rows");

    extern __shared__ __align__(16) unsigned char memory[];
    int4* rows = (int4*)(memory + STAGES * STAGE);  // of each row: its first input position and where that lies in x
    int* places = (int*)(rows + TILE_M);            // of each row: its position in y, or -1

    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int split = blockIdx.z % g.splits, group = blockIdx.z / g.splits % g.groups;
    const Phase& p = g.phase[blockIdx.z / g.splits / g.groups];
    const int column_tiles = (g.filters + TILE_N - 1) / TILE_N;
    const int m0 = blockIdx.x / column_tiles * TILE_M, n0 = blockIdx.x % column_tiles * TILE_N;
    const int positions = g.batch * p.size[0] * p.size[1] * p.size[2];
    if (m0 >= positions) return;  // another phase has more

    for (int row = thread; row < TILE_M; row += THREADS) {
        int4 at = {0, OUTSIDE, 0, 0};
        int place = -1, q = m0 + row;
        if (q < positions) {
            const int q2 = q % p.size[2], q1 = q / p.size[2] % p.size[1], q01 = q / p.size[2] / p.size[1];
            const int q0 = q01 % p.size[0], n = q01 / p.size[0];
            at.y = q0 * g.stride[0] + p.origin[0];
            at.z = q1 * g.stride[1] + p.origin[1];
            at.w = q2 * g.stride[2] + p.origin[2];
            at.x = ((n * g.input[0] + at.y) * g.input[1] + at.z) * g.input[2] + at.w;
            place = ((n * g.output[0] + p.first[0] + q0 * g.step[0]) * g.output[1] + p.first[1] + q1 * g.step[1]) *
                        g.output[2] + p.first[2] + q2 * g.step[2];
        }
        rows[row] = at, places[row] = place;
    }
    __syncthreads();

    // What this thread copies: piece `piece` of rows piece_row, piece_row + THREADS / PIECES, … of x. Its place in k
    // moves on by DEPTH with every step; tap and channel are kept, so that a division is rare.
    const int taps = p.taps[0] * p.taps[1] * p.taps[2];
    const int begin = split * g.slice * DEPTH, end = min(taps * g.channels, begin + g.slice * DEPTH);
    const int steps = begin < end ? (end - begin + DEPTH - 1) / DEPTH : 0;
    const int piece = thread % PIECES, piece_row = thread / PIECES;
    int tap = (begin + piece * (VECTOR / SIZE)) / g.channels;
    int channel = (begin + piece * (VECTOR / SIZE)) % g.channels;
    int d0, d1, d2, shift;  // from a row's first input position to the one the tap meets: by axis, and in x
    auto meet = [&] {
        const int t2 = tap % p.taps[2], t1 = tap / p.taps[2] % p.taps[1], t0 = tap / p.taps[2] / p.taps[1];
        d0 = t0 * g.dilation[0], d1 = t1 * g.dilation[1], d2 = t2 * g.dilation[2];
        shift = (d0 * g.input[1] + d1) * g.input[2] + d2;
    };
    if (steps) meet();
    const Storage* const x_group = x + group * g.channels;
    const Storage* const w_group = w + p.weights + (long long)group * g.filters * p.pitch;

    auto copy = [&](int step) {
        unsigned char* const a = memory + step % STAGES * STAGE;
        unsigned char* const b = a + TILE_M * ROW;
#pragma unroll
        for (int row = piece_row; row < TILE_M; row += THREADS / PIECES) {
            const int4 at = rows[row];
            const bool inside = tap < taps && (unsigned)(at.y + d0) < (unsigned)g.input[0] &&
                                (unsigned)(at.z + d1) < (unsigned)g.input[1] &&
                                (unsigned)(at.w + d2) < (unsigned)g.input[2];
            const Storage* from = inside ? x_group + (long long)(at.x + shift) * g.x_pitch + channel : x;
            cp_async<VECTOR>(a + swizzled<ROW>(row, piece * VECTOR), from, inside);
        }
#pragma unroll
        for (int i = thread; i < TILE_N * WHOLE; i += THREADS) {
            const int row = i / WHOLE, k = begin + step * DEPTH + i % WHOLE * (16 / SIZE);
            const bool inside = n0 + row < g.filters && k < p.pitch;
            const Storage* from = inside ? w_group + (long long)(n0 + row) * p.pitch + k : w;
            cp_async<16>(b + swizzled<ROW>(row, i % WHOLE * 16), from, inside);
        }
        channel += DEPTH;
        if (channel >= g.channels) {
            tap += channel / g.channels, channel %= g.channels;
            meet();
        }
    };

    Products<MATH, Storage, ROWS, WARP_M, WARP_N> products;
    const int m_warp = warp / WARPS_N * WARP_M, n_warp = warp % WARPS_N * WARP_N;
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

    const int plane = g.output[0] * g.output[1] * g.output[2];
    Result* const out = y + (long long)split * g.batch * plane * g.y_pitch + group * g.filters;
    using Sums = typename decltype(products)::Sums;
    products.each(lane, [&](int m, int n, Sums sums) {
        const int place = places[m_warp + m], f = n0 + n_warp + n;
        if (place < 0) return;
        Run<Result, Sums::COUNT> run;
#pragma unroll
        for (int i = 0; i < Sums::COUNT; ++i) {
            if (g.has_bias && f + i < g.filters) sums.at[i] += widen(bias[group * g.filters + f + i]);
            if (g.relu && sums.at[i] <= 0) sums.at[i] = 0;  // NaN stays NaN
            run.at[i] = narrow<Result>(sums.at[i]);
        }
        store(out + (long long)place * g.y_pitch, run, f, g.filters);
    });
}
