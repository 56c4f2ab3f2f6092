// The PTX instructions of the fast kernels, one small function each. The host shim has the same functions in C++, so
// whatever is written with them also runs on the CPU.

#ifndef MINIDL_CUDA_HOST

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// Asynchronous copy of 4, 8 or 16 bytes from global to shared memory; zeros are written instead where !valid. `from`
// must be a valid address in any case. Both are aligned to BYTES.
template <int BYTES> __device__ __forceinline__ void cp_async(void* to, const void* from, bool valid) {
    const int bytes = valid ? BYTES : 0;
    if constexpr (BYTES == 16)  // .cg: past the first-level cache, which these copies would only sweep out
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes));
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes),
                     "n"(BYTES));
}

// Ends a group of copies: those this thread began since the last group.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the latest GROUPS groups of this thread have arrived. Others see them after __syncthreads().
template <int GROUPS> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// Four 8 x 8 matrices of 2-byte elements from shared memory. Lane l gives the address of row l % 8 of matrix l / 8 (16
// bytes) and gets, of each matrix, the two elements at row l / 4, columns 2 * (l % 4) and the next. Elements of four
// bytes come out right, too: as matrices of 8 x 4.
__device__ __forceinline__ void ldmatrix(unsigned& r0, unsigned& r1, unsigned& r2, unsigned& r3, const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3) : "r"(shared_address(row)) : "memory");
}

// The same of the transposed matrices: lane l gets the elements at column l / 4, rows 2 * (l % 4) and the next.
__device__ __forceinline__ void ldmatrix_trans(unsigned& r0, unsigned& r1, unsigned& r2, unsigned& r3,
                                               const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3) : "r"(shared_address(row)) : "memory");
}

// d (16 x 8, float) += a (16 x k) * b (k x 8), by one warp. With g = lane / 4 and t = lane % 4 a lane holds
//   d: rows g, g, g + 8, g + 8, columns 2t, 2t + 1, 2t, 2t + 1
//   a: TF32, k = 8: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4); 2 bytes, k = 16: pairs from columns 2t and 2t + 8
//   b: TF32: (t, g), (t + 4, g); 2 bytes: pairs from rows 2t and 2t + 8
#define MINIDL_MMA(NAME, SHAPE)                                                                                       \
    __device__ __forceinline__ void NAME(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {             \
        asm volatile("mma.sync.aligned." SHAPE " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"     \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                             \
    }
MINIDL_MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
MINIDL_MMA(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32")
MINIDL_MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
#undef MINIDL_MMA

// The float rounded to TF32 (10 bits of fraction, ties away from zero). mma_tf32 alone would cut the other 13 bits off.
__device__ __forceinline__ unsigned round_tf32(float value) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

#endif
