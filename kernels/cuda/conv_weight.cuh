// What the kernels for the gradient of a convolution's weight share, whichever instructions multiply: the sizes, and
// the copies that bring a step's positions into shared memory. conv_weight.cu says what is computed.

// plan.py fills this: WEIGHT there lists the same fields in the same order.
struct Weight {
    int batch, groups, splits;
    int channels, filters;  // of a group; channels as x has them, padded
    int x_pitch, y_pitch;   // elements from position to position
    int y_filters;          // of a group, as y has them, padded
    int slice;              // positions in a split, a multiple of DEPTH
    int input[3], output[3], kernel[3], stride[3], padding[3], dilation[3];
};

// What a block computes (filters from m0 on, columns of k from n0 on), and its copies. The column of x that a thread
// copies stays the same; the positions move on with every step. Left and Right say where byte `byte` of row `row` lies
// in a step's part of y and of x: at(row, byte).
template <typename Storage, int TILE_M, int TILE_N, int THREADS, int DEPTH, int VECTOR, typename Left, typename Right>
struct Positions {
    static constexpr int SIZE = sizeof(Storage);
    static constexpr int WHOLE = TILE_M * SIZE / 16, PIECES = TILE_N * SIZE / VECTOR;  // copies to fill a row of y, x
    static_assert(THREADS % PIECES == 0, "a thread copies the same column of every row");

    const Weight& g;
    int4* const table;  // of 2 x DEPTH positions: the first input, and where it lies in x
    const Storage* const x;
    const Storage* const y;
    const Storage *x_group, *y_group;
    int split, group, columns, m0, n0, begin, end, steps, k;
    int d0, d1, d2, shift;

    __device__ __forceinline__ Positions(const Weight& g, int4* table, const Storage* x, const Storage* y)
        : g(g), table(table), x(x), y(y) {
        split = blockIdx.z % g.splits, group = blockIdx.z / g.splits;
        columns = g.kernel[0] * g.kernel[1] * g.kernel[2] * g.channels;
        const int column_tiles = (columns + TILE_N - 1) / TILE_N;
        m0 = blockIdx.x / column_tiles * TILE_M, n0 = blockIdx.x % column_tiles * TILE_N;
        const int positions = g.batch * g.output[0] * g.output[1] * g.output[2];
        begin = (int)min((long long)split * g.slice, (long long)positions);
        end = (int)min((long long)begin + g.slice, (long long)positions);
        steps = (end - begin + DEPTH - 1) / DEPTH;

        k = n0 + (int)threadIdx.x % PIECES * (VECTOR / SIZE);
        const int tap = k / g.channels;
        d0 = tap / g.kernel[2] / g.kernel[1] * g.dilation[0];
        d1 = tap / g.kernel[2] % g.kernel[1] * g.dilation[1], d2 = tap % g.kernel[2] * g.dilation[2];
        shift = (d0 * g.input[1] + d1) * g.input[2] + d2;
        x_group = x + group * g.channels + k % g.channels;
        y_group = y + group * g.y_filters;
    }

    __device__ __forceinline__ void locate(int step) {  // fills one of the two tables
        for (int i = threadIdx.x; i < DEPTH; i += THREADS) {
            const int q = begin + step * DEPTH + i;
            const int q2 = q % g.output[2], q1 = q / g.output[2] % g.output[1], q01 = q / g.output[2] / g.output[1];
            int4 at;
            at.y = q01 % g.output[0] * g.stride[0] - g.padding[0];
            at.z = q1 * g.stride[1] - g.padding[1];
            at.w = q2 * g.stride[2] - g.padding[2];
            at.x = ((q01 / g.output[0] * g.input[0] + at.y) * g.input[1] + at.z) * g.input[2] + at.w;
            table[step % 2 * DEPTH + i] = at;
        }
    }

    __device__ __forceinline__ void copy(unsigned char* a, unsigned char* b, int step) {
        const int thread = threadIdx.x, piece = thread % PIECES;
#pragma unroll
        for (int i = thread; i < DEPTH * WHOLE; i += THREADS) {
            const int row = i / WHOLE, f = m0 + i % WHOLE * (16 / SIZE), q = begin + step * DEPTH + row;
            const bool inside = q < end && f < g.y_filters;
            const Storage* from = inside ? y_group + (long long)q * g.y_pitch + f : y;
            cp_async<16>(a + Left::at(row, i % WHOLE * 16), from, inside);
        }
#pragma unroll
        for (int row = thread / PIECES; row < DEPTH; row += THREADS / PIECES) {
            const int4 at = table[step % 2 * DEPTH + row];
            const bool inside = begin + step * DEPTH + row < end && k < columns &&
                                (unsigned)(at.y + d0) < (unsigned)g.input[0] &&
                                (unsigned)(at.z + d1) < (unsigned)g.input[1] &&
                                (unsigned)(at.w + d2) < (unsigned)g.input[2];
            const Storage* from = inside ? x_group + (long long)(at.x + shift) * g.x_pitch : x;
            cp_async<VECTOR>(b + Right::at(row, piece * VECTOR), from, inside);
        }
    }

    template <typename Result> __device__ __forceinline__ Result* result(Result* w) const {
        return w + ((long long)split * g.groups + group) * g.filters * columns;
    }
};
