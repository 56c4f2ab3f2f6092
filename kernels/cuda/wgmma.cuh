// Hopper's tensor cores (compute capability 9.0 only, compiled for sm_90a). A warpgroup is four warps, the first of
// which has a number that four divides. It multiplies 64 x 32 bytes of k by 32 bytes of k x N at a time: the second
// factor lies in shared memory, the first one there or in registers, the sums are in registers. The instruction only
// starts the work. docs/kernels/cuda.md explains the layouts; the host shim has the instructions in C++.

using Bits64 = unsigned long long;

#ifndef MINIDL_CUDA_HOST

// Tensor cores read shared memory past the threads' view of it (through the async proxy). What a thread wrote, also by
// cp.async, they see after that thread's fence and then a barrier.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Before the first product, and wherever registers that it uses were read or written since the last one.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Ends a group of products: those begun since the last group.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until all but the latest GROUPS groups are done: the shared memory they read may be written, and their
// registers used if no later group adds to them.
template <int GROUPS> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
}

// The compiler does not know that sums change until the wait: none of their uses may move in front of this.
template <int COUNT> __device__ __forceinline__ void settle(float (&d)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define MINIDL_R0 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
    "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define MINIDL_R32 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
    "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define MINIDL_R64 \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, " \
    "%84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define MINIDL_R96 \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, " \
    "%113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define MINIDL_D8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
#define MINIDL_D32(i) MINIDL_D8(i), MINIDL_D8(i + 8), MINIDL_D8(i + 16), MINIDL_D8(i + 24)

// Both factors in shared memory: a and b are their descriptors. If !add the sums start from 0.
#define MINIDL_WGMMA_SHARED(NAME, COUNT, SHAPE, FLAGS, REGISTERS, A, B, ADD, ...)                                     \
    __device__ __forceinline__ void NAME(float (&d)[COUNT], Bits64 a, Bits64 b, int add) {                            \
        asm volatile("{ .reg .pred add; setp.ne.b32 add, " ADD ", 0; wgmma.mma_async.sync.aligned." SHAPE             \
                     " {" REGISTERS "}, " A ", " B ", add, 1, 1" FLAGS "; }"                                          \
                     : __VA_ARGS__ : "l"(a), "l"(b), "r"(add));                                                       \
    }
// The first factor in registers: of each warp its 16 rows, spread over the lanes as mma.sync has them (ptx.cuh).
#define MINIDL_WGMMA_REGISTERS(NAME, COUNT, SHAPE, FLAGS, REGISTERS, A, B, ADD, ...)                                  \
    __device__ __forceinline__ void NAME(float (&d)[COUNT], const unsigned (&a)[4], Bits64 b, int add) {              \
        asm volatile("{ .reg .pred add; setp.ne.b32 add, " ADD ", 0; wgmma.mma_async.sync.aligned." SHAPE             \
                     " {" REGISTERS "}, " A ", " B ", add, 1, 1" FLAGS "; }"                                          \
                     : __VA_ARGS__ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                   \
    }
// N = 64, 128 and 256
#define MINIDL_WGMMA(NAME, K, TYPES, FLAGS)                                                                            \
    MINIDL_WGMMA_SHARED(NAME, 32, "m64n64" K TYPES, FLAGS, MINIDL_R0, "%32", "%33", "%34", MINIDL_D32(0))              \
    MINIDL_WGMMA_SHARED(NAME, 64, "m64n128" K TYPES, FLAGS, MINIDL_R0 ", " MINIDL_R32, "%64", "%65", "%66",            \
                        MINIDL_D32(0), MINIDL_D32(32))                                                                 \
    MINIDL_WGMMA_SHARED(NAME, 128, "m64n256" K TYPES, FLAGS,                                                           \
                        MINIDL_R0 ", " MINIDL_R32 ", " MINIDL_R64 ", " MINIDL_R96,                                     \
                        "%128", "%129", "%130", MINIDL_D32(0), MINIDL_D32(32), MINIDL_D32(64), MINIDL_D32(96))
MINIDL_WGMMA(wgmma_tf32, "k8", ".f32.tf32.tf32", "")
MINIDL_WGMMA(wgmma_f16, "k16", ".f32.f16.f16", ", 0, 0")
MINIDL_WGMMA(wgmma_bf16, "k16", ".f32.bf16.bf16", ", 0, 0")
MINIDL_WGMMA(wgmma_f16_columns, "k16", ".f32.f16.f16", ", 1, 1")  // both factors lie along m and n, not along k
MINIDL_WGMMA(wgmma_bf16_columns, "k16", ".f32.bf16.bf16", ", 1, 1")
MINIDL_WGMMA_REGISTERS(wgmma_tf32, 32, "m64n64k8.f32.tf32.tf32", "", MINIDL_R0, "{%32, %33, %34, %35}", "%36", "%37",
                       MINIDL_D32(0))
MINIDL_WGMMA_REGISTERS(wgmma_tf32, 64, "m64n128k8.f32.tf32.tf32", "", MINIDL_R0 ", " MINIDL_R32,
                       "{%64, %65, %66, %67}", "%68", "%69", MINIDL_D32(0), MINIDL_D32(32))
MINIDL_WGMMA_REGISTERS(wgmma_tf32, 128, "m64n256k8.f32.tf32.tf32", "",
                       MINIDL_R0 ", " MINIDL_R32 ", " MINIDL_R64 ", " MINIDL_R96, "{%128, %129, %130, %131}", "%132",
                       "%133", MINIDL_D32(0), MINIDL_D32(32), MINIDL_D32(64), MINIDL_D32(96))
#undef MINIDL_WGMMA
#undef MINIDL_WGMMA_REGISTERS
#undef MINIDL_WGMMA_SHARED
#undef MINIDL_D32
#undef MINIDL_D8
#undef MINIDL_R96
#undef MINIDL_R64
#undef MINIDL_R32
#undef MINIDL_R0

#endif

// Where a factor lies in shared memory, for wgmma: in atoms of eight rows of 128 bytes, swizzled (gemm.cuh: swizzled),
// each at a multiple of 1024 bytes. Rows run along k (a row for each m or n), or else along m or n (a row for each k).
//   bits 0-13   address / 16; within the first row it may be moved by a multiple of 32 bytes of k
//   bits 16-29  bytes / 16 from 64 m (or n) to the next, where rows run along m; unused where they run along k
//   bits 32-45  bytes / 16 from one atom to the next eight rows
//   bits 62-63  1: swizzled in 128 bytes
__device__ __forceinline__ Bits64 factor_at(unsigned address, int next_columns = 16) {
    return (Bits64)((address & 0x3ffff) >> 4) | (Bits64)(next_columns >> 4) << 16 | (Bits64)(1024 >> 4) << 32 |
           (Bits64)1 << 62;
}

// Four pairs of two-byte results: of one row, eight columns from pair to pair, as a lane has them. The four lanes of a
// row exchange them, so that each has eight neighbours, which are stored in one piece of 16 bytes.
template <typename Result> union Quad {
    unsigned words[4];
    Run<Result, 2> pairs[4];
    Run<Result, 8> run;

    __device__ __forceinline__ Quad() {}

    __device__ __forceinline__ void transpose(int quarter) {  // of 4 lanes x 4 words: blocks of 2 x 2, then within
#pragma unroll
        for (int bit = 2; bit; bit /= 2)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (!(i & bit)) {
                    const bool upper = quarter & bit;
                    const unsigned given = upper ? words[i] : words[i + bit];
                    const unsigned taken = __shfl_xor_sync(0xffffffffu, given, bit);
                    (upper ? words[i] : words[i + bit]) = taken;
                }
    }
};

template <typename Result> using Written = Run<Result, sizeof(Result) == 2 ? 8 : 2>;  // results stored together

// The products of one warpgroup, M x N of the block's tile, 128 bytes of k in each step. Rows of both factors run along
// k for LAYOUT ROWS, along m and n for COLUMNS. Two-byte factors are read from shared memory. Floats of x must be
// rounded to TF32 on the way, or the tensor cores would cut them off: they pass through registers, unless they are
// ROUNDED in shared memory; those of w are rounded before the kernel runs (hopper_weights.cu).
template <int MATH, Layout LAYOUT, int M, int N, bool ROUNDED = false> struct WarpgroupProducts {
    static constexpr bool SHARED = MATH == F16 || MATH == BF16 || (MATH == TF32 && ROUNDED);  // both factors are
    using Sums = Run<float, 2>;
    static constexpr int TILES = M / 64, ROW = 128;
    static_assert(M % 64 == 0 && (N == 64 || N == 128 || N == 256), "what wgmma multiplies");
    static_assert(LAYOUT == ROWS || MATH == F16 || MATH == BF16, "wgmma reads floats along k only");
    float sum[TILES][N / 2];  // the first product sets them: with zeros here, ptxas would not let products run on
    float part[MATH == TF32X3 ? TILES : 1][MATH == TF32X3 ? N / 2 : 1];  // of 3xTF32: a step's sums
    unsigned big[ROW / 32][TILES][4], small[ROW / 32][TILES][4];         // of floats: the warp's rows of x in a step

    __device__ __forceinline__ WarpgroupProducts() {
        if constexpr (MATH == TF32X3)
#pragma unroll
            for (int i = 0; i < TILES; ++i)
#pragma unroll
                for (int e = 0; e < N / 2; ++e) sum[i][e] = 0;
    }

    // Begins the products of a step; the sums start from 0 if !add. a and b: where the warpgroup's rows (columns) lie.
    // ROWS: 3xTF32 finds the small parts of b `apart` bytes behind b. COLUMNS: `apart` is from 64 columns to the next.
    __device__ __forceinline__ void begin(const unsigned char* a, const unsigned char* b, int apart, bool add) {
        if constexpr (SHARED) from_shared(a, b, apart, add);
        else if constexpr (MATH == TF32) from_registers(a, b, add);
        else from_halves(a, b, apart);
    }

    // After this all steps but the latest are done with shared memory.
    __device__ __forceinline__ void end() {
        if constexpr (SHARED) wgmma_wait<1>();
        if constexpr (MATH == TF32X3) {  // the long sum is made here
            wgmma_wait<0>();
#pragma unroll
            for (int i = 0; i < TILES; ++i) {
                settle(part[i]);
#pragma unroll
                for (int e = 0; e < N / 2; ++e) sum[i][e] += part[i][e];
            }
        }
    }

    // The thread's elements, once all steps are done; zeros if there were not `any`. finish(n, sums) makes results of
    // neighbours in a row; use(m, n, run) gets as many neighbouring results as are stored together.
    template <typename Result, typename Finish, typename Use>
    __device__ __forceinline__ void each(bool any, Finish finish, Use use) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, quarter = lane % 4;
        wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
            settle(sum[i]);
#pragma unroll
            for (int e = 0; e < 4; e += 2) {
                const int m = i * 64 + warp * 16 + lane / 4 + e / 2 * 8;
                auto pair = [&](int j) {
                    const float left = sum[i][j * 4 + e], right = sum[i][j * 4 + e + 1];
                    return finish(j * 8 + quarter * 2, Sums{any ? left : 0, any ? right : 0});
                };
                if constexpr (sizeof(Result) == 2) {
#pragma unroll
                    for (int j = 0; j < N / 8; j += 4) {
                        Quad<Result> quad;
#pragma unroll
                        for (int k = 0; k < 4; ++k) quad.pairs[k] = pair(j + k);
                        quad.transpose(quarter);
                        use(m, (j + quarter) * 8, quad.run);
                    }
                } else {
#pragma unroll
                    for (int j = 0; j < N / 8; ++j) use(m, j * 8 + quarter * 2, pair(j));
                }
            }
        }
    }

  private:
    __device__ __forceinline__ void from_shared(const unsigned char* a, const unsigned char* b, int apart, bool add) {
        constexpr int K = LAYOUT == ROWS ? ROW / 32 : 4;  // products in a step
        constexpr int UNUSED = 16;  // what others pass where rows run along k
        const int lead = LAYOUT == ROWS ? UNUSED : apart;
        const Bits64 left = factor_at(shared_address(a), lead), right = factor_at(shared_address(b), lead);
        const int next_k = LAYOUT == ROWS ? 32 : 16 * ROW, next_m = LAYOUT == ROWS ? 64 * ROW : apart;
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < K; ++k)
#pragma unroll
            for (int i = 0; i < TILES; ++i)
                multiply(sum[i], left + (k * next_k + i * next_m) / 16, right + k * next_k / 16, add || k > 0);
        wgmma_commit();
    }

    // The registers of the next 32 bytes of k are loaded while products run that read the others.
    __device__ __forceinline__ void from_registers(const unsigned char* a, const unsigned char* b, bool add) {
        const Bits64 right = factor_at(shared_address(b));
#pragma unroll
        for (int k = 0; k < ROW / 32; ++k) {
            load(a, k);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < TILES; ++i) wgmma_tf32(sum[i], big[k][i], right + k * 2, add || k > 0);
            wgmma_commit();
            wgmma_wait<ROW / 32 - 1>();  // the registers that are loaded next were read, a step ago
        }
    }

    // x = big + small, w likewise. Tensor cores cut their sums off: they sum a step, small products first.
    __device__ __forceinline__ void from_halves(const unsigned char* a, const unsigned char* b, int apart) {
        const Bits64 right = factor_at(shared_address(b));
#pragma unroll
        for (int k = 0; k < ROW / 32; ++k) load(a, k);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < ROW / 32; ++k)
#pragma unroll
            for (int i = 0; i < TILES; ++i) {
                wgmma_tf32(part[i], small[k][i], right + k * 2, k > 0);
                wgmma_tf32(part[i], big[k][i], right + (k * 2 + apart / 16), 1);
            }
#pragma unroll
        for (int k = 0; k < ROW / 32; ++k)
#pragma unroll
            for (int i = 0; i < TILES; ++i) wgmma_tf32(part[i], big[k][i], right + k * 2, 1);
        wgmma_commit();
    }

    static __device__ __forceinline__ void multiply(float (&d)[N / 2], Bits64 a, Bits64 b, int add) {
        if constexpr (MATH == TF32) wgmma_tf32(d, a, b, add);
        else if constexpr (MATH == F16 && LAYOUT == ROWS) wgmma_f16(d, a, b, add);
        else if constexpr (MATH == F16) wgmma_f16_columns(d, a, b, add);
        else if constexpr (LAYOUT == ROWS) wgmma_bf16(d, a, b, add);
        else wgmma_bf16_columns(d, a, b, add);
    }

    // The k-th 32 bytes of each row of a, as TF32; for 3xTF32 what is left of them as well.
    __device__ __forceinline__ void load(const unsigned char* a, int k) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
            ldmatrix(big[k][i][0], big[k][i][1], big[k][i][2], big[k][i][3],
                     a + swizzled<ROW>(i * 64 + warp * 16 + lane % 16, k * 32 + lane / 16 * 16));
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float whole = __int_as_float((int)big[k][i][e]);
                big[k][i][e] = round_tf32(whole);
                if (MATH == TF32X3) small[k][i][e] = round_tf32(whole - __int_as_float((int)big[k][i][e]));
            }
        }
    }
};
