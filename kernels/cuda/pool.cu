// Pooling and its adjoints: one thread computes one element of the result, nothing is added atomically, so results are
// the same bits in every run. Neighbouring threads have neighbouring channels: they read and write side by side. The
// specification is ../reference/pool.py, the same kernels in Python are ../numba_cuda/pool.py.
//
//   x: (N, i0, i1, i2, C)    y, indices: (N, o0, o1, o2, C)
//   Scalar: float, double, Half or Bfloat16; sums are float or double.
//
// CuPy compiles with -ftz=true: on a device, float numbers below 2^-126 compare as equal to zero.

#include "numbers.cuh"
#include "geometry.cuh"

using Sum = Wide<Scalar>::type;

// The largest element of each window and its place in the input plane. The first wins a tie, NaN wins over numbers,
// padding never wins.
extern "C" __global__ void max_pool_kernel(const Scalar* __restrict__ x, Scalar* __restrict__ y,
                                           int* __restrict__ indices, const Geometry g) {
    const long long index = thread_index();
    if (index >= elements(g.batch, g.out_channels, g.output)) return;
    const Element out = element(index, g.out_channels, g.output);

    Sum best = 0;
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
                const Sum value = widen(x[offset(out.n, i0, i1, i2, out.c, g.in_channels, g.input)]);
                const bool first_nan = value != value && best == best;
                if (where < 0 || value > best || first_nan) {
                    best = value;
                    where = (i0 * g.input[1] + i1) * g.input[2] + i2;
                }
            }
        }
    }
    y[index] = narrow<Scalar>(best);
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
extern "C" __global__ void __launch_bounds__(256, 4)
    max_unpool_kernel(const Scalar* __restrict__ y, const int* __restrict__ indices, Scalar* __restrict__ x,
                      const Geometry g) {
    const long long index = thread_index();
    if (index >= elements(g.batch, g.in_channels, g.input)) return;
    const Element in = element(index, g.in_channels, g.input);
    const int place = (in.s0 * g.input[1] + in.s1) * g.input[2] + in.s2;

    const int last0 = last_window(in.s0, 0, g), last1 = last_window(in.s1, 1, g), last2 = last_window(in.s2, 2, g);
    const int first1 = first_window(in.s1, 1, g), first2 = first_window(in.s2, 2, g);

    Sum sum = 0;
    for (int o0 = first_window(in.s0, 0, g); o0 <= last0; ++o0)
        for (int o1 = first1; o1 <= last1; ++o1)
            for (int o2 = first2; o2 <= last2; ++o2) {
                const long long window = offset(in.n, o0, o1, o2, in.c, g.out_channels, g.output);
                if (indices[window] == place) sum += widen(y[window]);
            }
    x[index] = narrow<Scalar>(sum);
}

// How many positions of window o count on this axis: those inside or, with `pad`, inside the padding on both sides,
// too. What ceil_mode hangs over that never counts.
__device__ inline int counted(int o, int axis, int pad, const Geometry& g) {
    int count = 0;
    for (int k = 0; k < g.kernel[axis]; ++k) {
        const int i = o * g.stride[axis] - g.padding[axis] + k * g.dilation[axis];
        count += pad ? i < g.input[axis] + g.padding[axis] : 0 <= i && i < g.input[axis];
    }
    return count;
}

// The mean of each window: its sum divided by the number of positions that count, or by `divisor` if that is not 0.
extern "C" __global__ void avg_pool_kernel(const Scalar* __restrict__ x, Scalar* __restrict__ y, const Geometry g,
                                           const int pad, const long long divisor) {
    const long long index = thread_index();
    if (index >= elements(g.batch, g.out_channels, g.output)) return;
    const Element out = element(index, g.out_channels, g.output);

    Sum sum = 0;
    for (int k0 = 0; k0 < g.kernel[0]; ++k0) {
        const int i0 = input_at(out.s0, k0, 0, g);
        if (i0 < 0) continue;
        for (int k1 = 0; k1 < g.kernel[1]; ++k1) {
            const int i1 = input_at(out.s1, k1, 1, g);
            if (i1 < 0) continue;
            for (int k2 = 0; k2 < g.kernel[2]; ++k2) {
                const int i2 = input_at(out.s2, k2, 2, g);
                if (i2 >= 0) sum += widen(x[offset(out.n, i0, i1, i2, out.c, g.in_channels, g.input)]);
            }
        }
    }
    Sum size = divisor;
    if (!divisor) size = (Sum)counted(out.s0, 0, pad, g) * counted(out.s1, 1, pad, g) * counted(out.s2, 2, pad, g);
    y[index] = narrow<Scalar>(sum / size);
}

// Its adjoint, again from the receiving end: an element of x gets a share of every window that holds it.
extern "C" __global__ void avg_unpool_kernel(const Scalar* __restrict__ y, Scalar* __restrict__ x, const Geometry g,
                                             const int pad, const long long divisor) {
    const long long index = thread_index();
    if (index >= elements(g.batch, g.in_channels, g.input)) return;
    const Element in = element(index, g.in_channels, g.input);

    Sum sum = 0;
    for (int k0 = 0; k0 < g.kernel[0]; ++k0) {
        const int o0 = output_at(in.s0, k0, 0, g);
        if (o0 < 0) continue;
        const Sum size0 = divisor ? divisor : counted(o0, 0, pad, g);
        for (int k1 = 0; k1 < g.kernel[1]; ++k1) {
            const int o1 = output_at(in.s1, k1, 1, g);
            if (o1 < 0) continue;
            const Sum size1 = divisor ? size0 : size0 * counted(o1, 1, pad, g);
            for (int k2 = 0; k2 < g.kernel[2]; ++k2) {
                const int o2 = output_at(in.s2, k2, 2, g);
                if (o2 < 0) continue;
                const Sum size = divisor ? size1 : size1 * counted(o2, 2, pad, g);
                sum += widen(y[offset(in.n, o0, o1, o2, in.c, g.out_channels, g.output)]) / size;
            }
        }
    }
    x[index] = narrow<Scalar>(sum);
}
