// Products of tiles that lie in shared memory: what one warp computes between two barriers.
//
// A block computes TILE_M x TILE_N elements of a product of matrices and walks along their common axis k in steps.
// cp.async brings the parts of both factors for the next steps while the current ones are multiplied (STAGES of them
// are in shared memory at a time). Each warp owns WARP_M x WARP_N elements and keeps their sums in registers.
//
// A part lies in shared memory in one of two ways:
//   ROWS     one row for each m (or n), k runs inside: a row has 64 or 128 bytes. The 16-byte pieces of a row are
//            permuted (swizzled), or eight lanes that read one column would meet in the same banks.
//   COLUMNS  one row for each k, m (or n) runs inside; a pad behind each row spreads the banks.

enum Layout { ROWS, COLUMNS };
enum Math { FMA, TF32, TF32X3, F16, BF16 };

// Byte `byte` of row `row`, in the layout ROWS with rows of ROW bytes.
template <int ROW> __device__ __forceinline__ int swizzled(int row, int byte) {
    static_assert(ROW == 64 || ROW == 128, "rows have 64 or 128 bytes");
    const int flip = ROW == 128 ? row & 7 : row >> 1 & 3;
    return row * ROW + (byte ^ flip << 4);
}

template <typename T> struct alignas(16) Vector {
    static constexpr int SIZE = 16 / sizeof(T);
    T at[SIZE];
};

// Neighbours in a row that are stored together.
template <typename T, int SIZE> struct alignas(SIZE * sizeof(T)) Run {
    static constexpr int COUNT = SIZE;
    T at[SIZE];
};

// Writes a run to row[column] and behind it, as far as the row of `columns` elements goes: in one piece where rows are
// multiples of it.
template <typename T, int COUNT>
__device__ __forceinline__ void store(T* row, const Run<T, COUNT>& run, int column, int columns) {
    if (columns % COUNT == 0) {
        if (column < columns) *reinterpret_cast<Run<T, COUNT>*>(row + column) = run;
        return;
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        if (column + i < columns) row[column + i] = run.at[i];
}

template <typename T> __device__ __forceinline__ Vector<T> vector_at(const unsigned char* p) {
    return *reinterpret_cast<const Vector<T>*>(p);
}

__device__ __forceinline__ unsigned word_at(const unsigned char* p) { return *reinterpret_cast<const unsigned*>(p); }

template <int MATH> constexpr int PAD = MATH == TF32 || MATH == TF32X3 ? 32 : 16;  // bytes behind a row of COLUMNS

// ---- fused multiply-adds: strict float and double -------------------------------------------------------------------
// The 32 lanes of a warp stand 4 x 8, each lane has WARP_M / 4 x WARP_N / 8 sums.

template <int MATH, typename T, Layout LAYOUT, int WARP_M, int WARP_N> struct Products {
    using Sum = T;
    using Sums = Run<Sum, 1>;
    static constexpr int V = Vector<T>::SIZE, M = WARP_M / 4, N = WARP_N / 8;
    static_assert(MATH == FMA, "this is the general case");
    static_assert(LAYOUT == ROWS || (WARP_M % (4 * V) == 0 && WARP_N % (8 * V) == 0), "lanes read whole vectors");
    T sum[M][N] = {};

    // Element i of the lane's `count` standing at `lane` of `lanes`: interleaved singly, or by vectors.
    static __device__ __forceinline__ int place(int i, int lane, int lanes) {
        return LAYOUT == ROWS ? lane + lanes * i : (lane + i / V * lanes) * V + i % V;
    }

    template <int ROW> __device__ __forceinline__ void rows(const unsigned char* a, const unsigned char* b, int lane) {
#pragma unroll 1
        for (int byte = 0; byte < ROW; byte += 16) {
            Vector<T> right[N];
#pragma unroll
            for (int j = 0; j < N; ++j) right[j] = vector_at<T>(b + swizzled<ROW>(place(j, lane % 8, 8), byte));
#pragma unroll
            for (int i = 0; i < M; ++i) {
                const Vector<T> left = vector_at<T>(a + swizzled<ROW>(place(i, lane / 8, 4), byte));
#pragma unroll
                for (int e = 0; e < V; ++e)
#pragma unroll
                    for (int j = 0; j < N; ++j) sum[i][j] += left.at[e] * right[j].at[e];
            }
        }
    }

    template <int DEPTH>
    __device__ __forceinline__ void columns(const unsigned char* a, int a_pitch, const unsigned char* b, int b_pitch,
                                            int lane) {
#pragma unroll 2
        for (int k = 0; k < DEPTH; ++k) {
            Vector<T> left[M / V], right[N / V];
#pragma unroll
            for (int i = 0; i < M; i += V)
                left[i / V] = vector_at<T>(a + k * a_pitch + place(i, lane / 8, 4) * (int)sizeof(T));
#pragma unroll
            for (int j = 0; j < N; j += V)
                right[j / V] = vector_at<T>(b + k * b_pitch + place(j, lane % 8, 8) * (int)sizeof(T));
#pragma unroll
            for (int i = 0; i < M; ++i)
#pragma unroll
                for (int j = 0; j < N; ++j) sum[i][j] += left[i / V].at[i % V] * right[j / V].at[j % V];
        }
    }

    // use(m, n, sums) for each of the lane's elements
    template <typename Use> __device__ __forceinline__ void each(int lane, Use use) const {
#pragma unroll
        for (int i = 0; i < M; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j) use(place(i, lane / 8, 4), place(j, lane % 8, 8), Sums{sum[i][j]});
    }
};

// ---- tensor cores ---------------------------------------------------------------------------------------------------
// A step of mma takes 32 bytes of k: 8 floats as TF32, or 16 numbers of two bytes.

template <int MATH, typename T, Layout LAYOUT, int WARP_M, int WARP_N> struct TensorProducts {
    using Sum = float;
    using Sums = Run<Sum, 2>;
    static constexpr int M = WARP_M / 16, N = WARP_N / 8;
    static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "a warp reads 16 rows of each factor at a time");
    float sum[M][N][4] = {};

    template <int ROW> __device__ __forceinline__ void rows(const unsigned char* a, const unsigned char* b, int lane) {
#pragma unroll(MATH == TF32X3 ? 1 : ROW / 32)  // two steps of 3xTF32 at a time would not fit the registers
        for (int byte = 0; byte < ROW; byte += 32) {
            unsigned left[M][4], right[N][2];
#pragma unroll
            for (int i = 0; i < M; ++i)
                ldmatrix(left[i][0], left[i][1], left[i][2], left[i][3],
                         a + swizzled<ROW>(i * 16 + lane % 16, byte + lane / 16 * 16));
#pragma unroll
            for (int j = 0; j < N; j += 2)
                ldmatrix(right[j][0], right[j][1], right[j + 1][0], right[j + 1][1],
                         b + swizzled<ROW>(j * 8 + lane / 16 * 8 + lane % 8, byte + lane / 8 % 2 * 16));
            multiply(left, right);
        }
    }

    template <int DEPTH>
    __device__ __forceinline__ void columns(const unsigned char* a, int a_pitch, const unsigned char* b, int b_pitch,
                                            int lane) {
#pragma unroll(MATH == TF32X3 ? 1 : DEPTH)
        for (int k = 0; k < DEPTH; k += 32 / (int)sizeof(T)) {
            unsigned left[M][4], right[N][2];
            if constexpr (sizeof(T) == 2) {
#pragma unroll
                for (int i = 0; i < M; ++i)
                    ldmatrix_trans(left[i][0], left[i][1], left[i][2], left[i][3],
                                   a + (k + lane / 16 * 8 + lane % 8) * a_pitch + (i * 16 + lane / 8 % 2 * 8) * 2);
#pragma unroll
                for (int j = 0; j < N; j += 2)
                    ldmatrix_trans(right[j][0], right[j][1], right[j + 1][0], right[j + 1][1],
                                   b + (k + lane % 16) * b_pitch + (j * 8 + lane / 16 * 8) * 2);
            } else {  // ldmatrix transposes elements of two bytes only
                const int g = lane / 4, t = lane % 4;
#pragma unroll
                for (int i = 0; i < M; ++i)
#pragma unroll
                    for (int e = 0; e < 4; ++e)
                        left[i][e] = word_at(a + (k + t + e / 2 * 4) * a_pitch + (i * 16 + g + e % 2 * 8) * 4);
#pragma unroll
                for (int j = 0; j < N; ++j)
#pragma unroll
                    for (int e = 0; e < 2; ++e)
                        right[j][e] = word_at(b + (k + t + e * 4) * b_pitch + (j * 8 + g) * 4);
            }
            multiply(left, right);
        }
    }

    // use(m, n, sums) for each pair of the lane's elements, neighbours in a row
    template <typename Use> __device__ __forceinline__ void each(int lane, Use use) const {
#pragma unroll
        for (int i = 0; i < M; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j)
#pragma unroll
                for (int e = 0; e < 4; e += 2)
                    use(i * 16 + lane / 4 + e / 2 * 8, j * 8 + lane % 4 * 2,
                        Sums{sum[i][j][e], sum[i][j][e + 1]});
    }

  private:
    static __device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
        if constexpr (MATH == F16) mma_f16(d, a, b);
        else if constexpr (MATH == BF16) mma_bf16(d, a, b);
        else mma_tf32(d, a, b);
    }

    // Rounds floats to TF32 in place.
    template <int COUNT> static __device__ __forceinline__ void round(unsigned (&x)[COUNT]) {
#pragma unroll
        for (int e = 0; e < COUNT; ++e) x[e] = round_tf32(__int_as_float((int)x[e]));
    }

    // Splits floats into TF32 numbers, x = big + small to 21 bits or more: x becomes big.
    template <int COUNT> static __device__ __forceinline__ void split(unsigned (&x)[COUNT], unsigned (&small)[COUNT]) {
#pragma unroll
        for (int e = 0; e < COUNT; ++e) {
            const float value = __int_as_float((int)x[e]);
            x[e] = round_tf32(value);
            small[e] = round_tf32(value - __int_as_float((int)x[e]));
        }
    }

    __device__ __forceinline__ void multiply(unsigned (&left)[M][4], unsigned (&right)[N][2]) {
        if constexpr (MATH == TF32X3) {
            // The product of the small parts is below float's rounding: left out. Tensor cores cut their sums off,
            // which over a long k grows far beyond float's rounding: they sum a step, the long sum is made outside.
            unsigned right_small[N][2];
#pragma unroll
            for (int j = 0; j < N; ++j) split(right[j], right_small[j]);
#pragma unroll
            for (int i = 0; i < M; ++i) {
                unsigned left_small[4];
                split(left[i], left_small);
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    float part[4] = {};
                    mma(part, left_small, right[j]);
                    mma(part, left[i], right_small[j]);
                    mma(part, left[i], right[j]);
#pragma unroll
                    for (int e = 0; e < 4; ++e) sum[i][j][e] += part[e];
                }
            }
        } else {
            if constexpr (MATH == TF32) {
#pragma unroll
                for (int j = 0; j < N; ++j) round(right[j]);
#pragma unroll
                for (int i = 0; i < M; ++i) round(left[i]);
            }
#pragma unroll
            for (int i = 0; i < M; ++i)
#pragma unroll
                for (int j = 0; j < N; ++j) mma(sum[i][j], left[i], right[j]);
        }
    }
};

template <typename T, Layout LAYOUT, int WARP_M, int WARP_N>
struct Products<TF32, T, LAYOUT, WARP_M, WARP_N> : TensorProducts<TF32, T, LAYOUT, WARP_M, WARP_N> {};
template <typename T, Layout LAYOUT, int WARP_M, int WARP_N>
struct Products<TF32X3, T, LAYOUT, WARP_M, WARP_N> : TensorProducts<TF32X3, T, LAYOUT, WARP_M, WARP_N> {};
template <typename T, Layout LAYOUT, int WARP_M, int WARP_N>
struct Products<F16, T, LAYOUT, WARP_M, WARP_N> : TensorProducts<F16, T, LAYOUT, WARP_M, WARP_N> {};
template <typename T, Layout LAYOUT, int WARP_M, int WARP_N>
struct Products<BF16, T, LAYOUT, WARP_M, WARP_N> : TensorProducts<BF16, T, LAYOUT, WARP_M, WARP_N> {};
