// The tensor memory accelerator of compute capability 9.0: one thread asks for a box of a tensor, the hardware works
// out the addresses, writes zeros for what lies outside, swizzles, and counts the bytes that arrived at a barrier in
// shared memory. tensor_map.py describes the tensors; the host shim has these functions in C++.

struct alignas(64) TensorMap { unsigned long long opaque[16]; };  // passed by value, as __grid_constant__

using Barrier = unsigned long long;  // in shared memory

#ifndef MINIDL_CUDA_HOST

// A barrier's phase ends when `arrivals` threads have arrived and all bytes that were announced are there; then the
// next phase begins. Phases have parity 0, 1, 0, …
__device__ __forceinline__ void barrier_init(Barrier* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// The initialised barriers, for the accelerator to see.
__device__ __forceinline__ void barrier_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void barrier_arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and announces bytes that copies will bring in this phase.
__device__ __forceinline__ void barrier_expect(Barrier* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

// Waits until the phase of this parity has ended. The phase before the first counts as one that ended, of parity 1.
__device__ __forceinline__ void barrier_wait(Barrier* barrier, int parity) {
    int done;
    do {
        asm volatile("{ .reg .pred done; mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2; "
                     "selp.b32 %0, 1, 0, done; }"
                     : "=r"(done) : "r"(shared_address(barrier)), "r"(parity) : "memory");
    } while (!done);
}

// A box of a tensor with three axes, from coordinates (innermost axis first) on.
__device__ __forceinline__ void copy_box(void* to, const TensorMap& map, Barrier* barrier, int c0, int c1, int c2) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%3, %4, %5}], [%2];"
                 ::"r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2)
                 : "memory");
}

// A column of pixels (im2col): channels from c on of the pixels that follow (n, d, h, w) in the map's bounding box,
// each moved by (off_d, off_h, off_w), which are not negative.
__device__ __forceinline__ void copy_pixels(void* to, const TensorMap& map, Barrier* barrier, int c, int w, int h,
                                            int d, int n, int off_w, int off_h, int off_d) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%3, %4, %5, %6, %7}], [%2], {%8, %9, %10};"
                 ::"r"(shared_address(to)), "l"(&map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(d),
                   "r"(n), "h"((unsigned short)off_w), "h"((unsigned short)off_h), "h"((unsigned short)off_d)
                 : "memory");
}

// The registers of the warpgroup's threads from here on: given back, or taken from what others gave back.
template <int COUNT> __device__ __forceinline__ void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> __device__ __forceinline__ void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

#endif
