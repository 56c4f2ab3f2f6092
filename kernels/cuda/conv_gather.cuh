// What the kernels for a convolution and its adjoint in x share, whichever instructions multiply: the sizes, where the
// rows of a tile begin, the copies that bring a step's parts into shared memory, and how results are written.
// conv_gather.cu says what is computed.

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

// Which tile a block computes: rows from m0 on, filters from n0 on.
template <int TILE_M, int TILE_N> struct Place {
    int split, group, phase, m0, n0;

    __device__ __forceinline__ explicit Place(const Gather& g) {
        const int column_tiles = (g.filters + TILE_N - 1) / TILE_N;
        split = blockIdx.z % g.splits, group = blockIdx.z / g.splits % g.groups;
        phase = blockIdx.z / g.splits / g.groups;
        m0 = blockIdx.x / column_tiles * TILE_M, n0 = blockIdx.x % column_tiles * TILE_N;
    }
};

__device__ __forceinline__ int positions(const Gather& g, const Phase& p) {
    return g.batch * p.size[0] * p.size[1] * p.size[2];
}

// Of each row: its first input position and where that lies in x (`first`), and its position in y, or -1.
template <int TILE_M, int THREADS>
__device__ __forceinline__ void locate(int4* first, int* places, int m0, const Gather& g, const Phase& p) {
    for (int row = threadIdx.x; row < TILE_M; row += THREADS) {
        int4 at = {0, OUTSIDE, 0, 0};
        int place = -1, q = m0 + row;
        if (q < positions(g, p)) {
            const int q2 = q % p.size[2], q1 = q / p.size[2] % p.size[1], q01 = q / p.size[2] / p.size[1];
            const int q0 = q01 % p.size[0], n = q01 / p.size[0];
            at.y = q0 * g.stride[0] + p.origin[0];
            at.z = q1 * g.stride[1] + p.origin[1];
            at.w = q2 * g.stride[2] + p.origin[2];
            at.x = ((n * g.input[0] + at.y) * g.input[1] + at.z) * g.input[2] + at.w;
            place = ((n * g.output[0] + p.first[0] + q0 * g.step[0]) * g.output[1] + p.first[1] + q1 * g.step[1]) *
                        g.output[2] + p.first[2] + q2 * g.step[2];
        }
        first[row] = at, places[row] = place;
    }
}

// What this thread copies: piece `piece` of rows piece_row, piece_row + THREADS / PIECES, … of x. Its place in k moves
// on by DEPTH with every step; tap and channel are kept, so that a division is rare.
template <typename Storage, int TILE_M, int TILE_N, int THREADS, int ROW, int VECTOR> struct Parts {
    static constexpr int SIZE = sizeof(Storage), DEPTH = ROW / SIZE;
    static constexpr int PIECES = ROW / VECTOR, WHOLE = ROW / 16;  // copies to fill a row of x, of w
    static_assert(THREADS % PIECES == 0, "a thread copies the same column of every row");

    const Gather& g;
    const Phase& p;
    const int4* const first;
    const Storage* const x;
    const Storage* const w;
    const Storage *x_group, *w_group;
    int n0, begin, steps;       // elements of k before this split's, and how many steps it has
    int tap, channel;
    int d0, d1, d2, shift;      // from a row's first input position to the one the tap meets: by axis, and in x

    __device__ __forceinline__ Parts(const Gather& g, const Phase& p, const Place<TILE_M, TILE_N>& at,
                                     const int4* first, const Storage* x, const Storage* w)
        : g(g), p(p), first(first), x(x), w(w) {
        const int taps = p.taps[0] * p.taps[1] * p.taps[2];
        const int end = min(taps * g.channels, (at.split + 1) * g.slice * DEPTH);
        n0 = at.n0, begin = at.split * g.slice * DEPTH;
        steps = begin < end ? (end - begin + DEPTH - 1) / DEPTH : 0;
        tap = (begin + (int)threadIdx.x % PIECES * (VECTOR / SIZE)) / g.channels;
        channel = (begin + (int)threadIdx.x % PIECES * (VECTOR / SIZE)) % g.channels;
        if (steps) meet();
        x_group = x + at.group * g.channels;
        w_group = w + p.weights + (long long)at.group * g.filters * p.pitch;
    }

    __device__ __forceinline__ void meet() {
        const int t2 = tap % p.taps[2], t1 = tap / p.taps[2] % p.taps[1], t0 = tap / p.taps[2] / p.taps[1];
        d0 = t0 * g.dilation[0], d1 = t1 * g.dilation[1], d2 = t2 * g.dilation[2];
        shift = (d0 * g.input[1] + d1) * g.input[2] + d2;
    }

    // The next step's part of x. Steps are copied in their order.
    __device__ __forceinline__ void copy_x(unsigned char* a) {
        const int thread = threadIdx.x, piece = thread % PIECES, taps = p.taps[0] * p.taps[1] * p.taps[2];
#pragma unroll
        for (int row = thread / PIECES; row < TILE_M; row += THREADS / PIECES) {
            const int4 at = first[row];
            const bool inside = tap < taps && (unsigned)(at.y + d0) < (unsigned)g.input[0] &&
                                (unsigned)(at.z + d1) < (unsigned)g.input[1] &&
                                (unsigned)(at.w + d2) < (unsigned)g.input[2];
            const Storage* from = inside ? x_group + (long long)(at.x + shift) * g.x_pitch + channel : x;
            cp_async<VECTOR>(a + swizzled<ROW>(row, piece * VECTOR), from, inside);
        }
        channel += DEPTH;
        if (channel >= g.channels) {
            tap += channel / g.channels, channel %= g.channels;
            meet();
        }
    }

    // A step's part of w, or of a copy of w `apart` elements behind it.
    __device__ __forceinline__ void copy_w(unsigned char* b, int step, long long apart = 0) {
        const int thread = threadIdx.x;
#pragma unroll
        for (int i = thread; i < TILE_N * WHOLE; i += THREADS) {
            const int row = i / WHOLE, k = begin + step * DEPTH + i % WHOLE * (16 / SIZE);
            const bool inside = n0 + row < g.filters && k < p.pitch;
            const Storage* from = inside ? w_group + apart + (long long)(n0 + row) * p.pitch + k : w;
            cp_async<16>(b + swizzled<ROW>(row, i % WHOLE * 16), from, inside);
        }
    }
};

// Where this block's split and group write to.
template <typename Result, int TILE_M, int TILE_N>
__device__ __forceinline__ Result* result(Result* y, const Gather& g, const Place<TILE_M, TILE_N>& at) {
    const int plane = g.output[0] * g.output[1] * g.output[2];
    return y + (long long)at.split * g.batch * plane * g.y_pitch + at.group * g.filters;
}

// Bias, ReLU and rounding of neighbours in a row, from filter f of the group on.
template <typename Result, typename Sums>
__device__ __forceinline__ Run<Result, Sums::COUNT> finished(Sums sums, const Result* bias, const Gather& g, int f) {
    Run<Result, Sums::COUNT> run;
#pragma unroll
    for (int i = 0; i < Sums::COUNT; ++i) {
        if (g.has_bias && f + i < g.filters) sums.at[i] += widen(bias[f + i]);
        if (g.relu && sums.at[i] <= 0) sums.at[i] = 0;  // NaN stays NaN
        run.at[i] = narrow<Result>(sums.at[i]);
    }
    return run;
}
