// The convolution family, straight from its definition: one thread computes one element of the result, every kernel
// gathers, nothing is added atomically, so results are the same bits in every run. Slow and sound; the specification is
// ../reference/conv.py, the same kernels in Python are ../numba_cuda/conv.py.
//
//   x: (N, C, i0, i1, i2)    w: (F, C / groups, k0, k1, k2)    y: (N, F, o0, o1, o2)    Scalar: float or double

#include "geometry.cuh"

// y[n, f, o] = sum over c, k of x[n, c, o * stride - padding + k * dilation] * w[f, c, k]
extern "C" __global__ void conv_kernel(const Scalar* __restrict__ x, const Scalar* __restrict__ w,
                                       Scalar* __restrict__ y, const Geometry g) {
    const long long index = thread_index();
    if (index >= elements(g.batch, g.out_channels, g.output)) return;
    const Element out = element(index, g.out_channels, g.output);
    const int channels = g.in_channels / g.groups;
    const int first = out.c / (g.out_channels / g.groups) * channels;  // channel of x where this filter's group begins

    Scalar sum = 0;
    for (int c = 0; c < channels; ++c)
        for (int k0 = 0; k0 < g.kernel[0]; ++k0) {
            const int i0 = input_at(out.s0, k0, 0, g);
            if (i0 < 0) continue;
            for (int k1 = 0; k1 < g.kernel[1]; ++k1) {
                const int i1 = input_at(out.s1, k1, 1, g);
                if (i1 < 0) continue;
                for (int k2 = 0; k2 < g.kernel[2]; ++k2) {
                    const int i2 = input_at(out.s2, k2, 2, g);
                    if (i2 < 0) continue;
                    sum += x[offset(out.n, first + c, i0, i1, i2, g.in_channels, g.input)] *
                           w[offset(out.c, c, k0, k1, k2, channels, g.kernel)];
                }
            }
        }
    y[index] = sum;
}

// x[n, c, i] = sum over f, k of y[n, f, o] * w[f, c, k], where tap k of output o meets input i
extern "C" __global__ void conv_input_kernel(const Scalar* __restrict__ y, const Scalar* __restrict__ w,
                                             Scalar* __restrict__ x, const Geometry g) {
    const long long index = thread_index();
    if (index >= elements(g.batch, g.in_channels, g.input)) return;
    const Element in = element(index, g.in_channels, g.input);
    const int channels = g.in_channels / g.groups, filters = g.out_channels / g.groups;
    const int first = in.c / channels * filters;  // filter where this channel's group begins

    Scalar sum = 0;
    for (int f = first; f < first + filters; ++f)
        for (int k0 = 0; k0 < g.kernel[0]; ++k0) {
            const int o0 = output_at(in.s0, k0, 0, g);
            if (o0 < 0) continue;
            for (int k1 = 0; k1 < g.kernel[1]; ++k1) {
                const int o1 = output_at(in.s1, k1, 1, g);
                if (o1 < 0) continue;
                for (int k2 = 0; k2 < g.kernel[2]; ++k2) {
                    const int o2 = output_at(in.s2, k2, 2, g);
                    if (o2 < 0) continue;
                    sum += y[offset(in.n, f, o0, o1, o2, g.out_channels, g.output)] *
                           w[offset(f, in.c % channels, k0, k1, k2, channels, g.kernel)];
                }
            }
        }
    x[index] = sum;
}

// w[f, c, k] = sum over n, o of x[n, c, o * stride - padding + k * dilation] * y[n, f, o]
extern "C" __global__ void conv_weight_kernel(const Scalar* __restrict__ x, const Scalar* __restrict__ y,
                                              Scalar* __restrict__ w, const Geometry g) {
    const long long index = thread_index();
    const int channels = g.in_channels / g.groups;
    if (index >= elements(g.out_channels, channels, g.kernel)) return;
    const Element tap = element(index, channels, g.kernel);  // n: the filter
    const int c = tap.n / (g.out_channels / g.groups) * channels + tap.c;

    Scalar sum = 0;
    for (int n = 0; n < g.batch; ++n)
        for (int o0 = 0; o0 < g.output[0]; ++o0) {
            const int i0 = input_at(o0, tap.s0, 0, g);
            if (i0 < 0) continue;
            for (int o1 = 0; o1 < g.output[1]; ++o1) {
                const int i1 = input_at(o1, tap.s1, 1, g);
                if (i1 < 0) continue;
                Scalar row = 0;  // rows are summed apart: the rounding error of one long sum would be far larger
                for (int o2 = 0; o2 < g.output[2]; ++o2) {
                    const int i2 = input_at(o2, tap.s2, 2, g);
                    if (i2 < 0) continue;
                    row += x[offset(n, c, i0, i1, i2, g.in_channels, g.input)] *
                           y[offset(n, tap.n, o0, o1, o2, g.out_channels, g.output)];
                }
                sum += row;
            }
        }
    w[index] = sum;
}
