// Dropout with a generator that has no state: the i-th group of four numbers is a function of a key and of i, so any
// thread can compute its own, in any order, and the same key gives the same mask. The same kernels in Python are
// ../numba_cuda/dropout.py.

#include "numbers.cuh"
#include "scalar.cuh"

struct Four {
    unsigned v[4];
};

// Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): ten rounds, each of two products
// of 32 by 32 bits whose halves are crossed and mixed with a key that moves on by constants.
__device__ inline Four philox(unsigned long long counter, unsigned long long key) {
    unsigned c0 = counter, c1 = counter >> 32, c2 = 0, c3 = 0;
    unsigned k0 = key, k1 = key >> 32;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned long long a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
        const unsigned high_a = a >> 32, high_b = b >> 32;
        c0 = high_b ^ c1 ^ k0, c1 = b;
        c2 = high_a ^ c3 ^ k1, c3 = a;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// mask[e] = whether a uniform number u[e] of 24 bits, in [0, 1), is at least p: `least` is p as a number of 2^-24.
// One thread draws four.
extern "C" __global__ void dropout_mask_kernel(bool* __restrict__ mask, const long long elements,
                                               const Key key, const unsigned least) {
    const long long i = element_index();
    if (4 * i >= elements) return;
    const Four drawn = philox(i, (unsigned long long)key);
#pragma unroll
    for (int k = 0; k < 4; ++k)
        if (4 * i + k < elements) mask[4 * i + k] = drawn.v[k] >> 8 >= least;
}

// x where the mask keeps it, times scale; 0 elsewhere (as a product, so that what is no number stays none).
extern "C" __global__ void dropout_kernel(const Storage* __restrict__ x, const bool* __restrict__ mask,
                                          Storage* __restrict__ y, const long long elements, const Scalar scale) {
    const long long i = element_index();
    if (i < elements) y[i] = stored(read(x[i]) * mask[i] * scale);
}
