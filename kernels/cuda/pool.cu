// Max pooling and its adjoint: one thread computes one element of the result, nothing is added atomically, so results
// are the same bits in every run. The specification is ../reference/pool.py, the same kernels in Python are
// ../numba_cuda/pool.py.
//
//   x: (N, C, i0, i1, i2)    y, indices: (N, C, o0, o1, o2)    Scalar: float or double
//
// CuPy compiles with -ftz=true: on a device, float numbers below 2^-126 compare as equal to zero.

#include "geometry.cuh"

// The largest element of each window and its place in the input plane. The first wins a tie, NaN wins over numbers,
// padding never wins.
extern "C" __global__ void max_pool_kernel(const Scalar* __restrict__ x, Scalar* __restrict__ y,
                                           int* __restrict__ indices, const Geometry g) {
    const long long index = thread_index();
    if (index >= elements(g.batch, g.out_channels, g.output)) return;
    const Element out = element(index, g.out_channels, g.output);
    const Scalar* plane = x + offset(out.n, out.c, 0, 0, 0, g.in_channels, g.input);

    Scalar best = 0;
    int where = -1;
    for (int k0 = 0; k0 < g.kernel[0]; ++k0) {
        const int i0 = input_at(out.s0, k0, 0, g);
        if (i0 < 0) continue;
        for (int k1 = 0; k1 < g.kernel[1]; ++k1) {
            const int i1 = input_at(out.s1, k1, 1, g);
            if (i1 < 0) continue;
            for (int k2 = 0; k2 < g.kernel[2]; ++k2) {
                const int i2 = input_at(out.s2, k2, 2, g);
                if (i2 < 0) continue;
                const int place = (i0 * g.input[1] + i1) * g.input[2] + i2;
                const Scalar value = plane[place];
                const bool first_nan = value != value && best == best;
                if (where < 0 || value > best || first_nan) best = value, where = place;
            }
        }
    }
    y[index] = best;
    indices[index] = where;
}

// The first and the last window that can hold input position i on this axis.
__device__ inline int first_window(int i, int axis, const Geometry& g) {
    const int start = i + g.padding[axis] - (g.kernel[axis] - 1) * g.dilation[axis];
    return start > 0 ? (start - 1) / g.stride[axis] + 1 : 0;
}

__device__ inline int last_window(int i, int axis, const Geometry& g) {
    const int last = (i + g.padding[axis]) / g.stride[axis];
    return last < g.output[axis] ? last : g.output[axis] - 1;
}

// Adds each y where its index points, seen from the receiving end: an element of x asks the windows that can hold it.
// Scattering with atomicAdd would add in a different order in every run.
extern "C" __global__ void max_unpool_kernel(const Scalar* __restrict__ y, const int* __restrict__ indices,
                                             Scalar* __restrict__ x, const Geometry g) {
    const long long index = thread_index();
    if (index >= elements(g.batch, g.in_channels, g.input)) return;
    const Element in = element(index, g.in_channels, g.input);
    const int place = (in.s0 * g.input[1] + in.s1) * g.input[2] + in.s2;

    Scalar sum = 0;
    for (int o0 = first_window(in.s0, 0, g); o0 <= last_window(in.s0, 0, g); ++o0)
        for (int o1 = first_window(in.s1, 1, g); o1 <= last_window(in.s1, 1, g); ++o1)
            for (int o2 = first_window(in.s2, 2, g); o2 <= last_window(in.s2, 2, g); ++o2) {
                const long long window = offset(in.n, in.c, o0, o1, o2, g.out_channels, g.output);
                if (indices[window] == place) sum += y[window];
            }
    x[index] = sum;
}
