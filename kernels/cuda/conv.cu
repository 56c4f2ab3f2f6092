// The convolution family, straight from its definition: one thread computes one element of the result, every kernel
// gathers, nothing is added atomically, so results are the same bits in every run. For tiny problems and for groups of
// few channels (depthwise), where a product of matrices would consist of padding; conv_gather.cu and conv_weight.cu do
// the rest. The specification is ../reference/conv.py, the same kernels in Python are ../numba_cuda/conv.py.
//
//   x: (N, i0, i1, i2, C)    w: (F, C / groups, k0, k1, k2)    y: (N, o0, o1, o2, F)
//   Scalar: float, double, Half or Bfloat16; sums are float or double.

#include "numbers.cuh"
#include "geometry.cuh"

using Sum = Wide<Scalar>::type;

// What becomes of a sum: a bias for its channel c is added if there is one, ReLU applied if asked (NaN stays NaN).
__device__ inline Scalar finished(Sum sum, const Scalar* bias, int c, int has_bias, int relu) {
    if (has_bias) sum += widen(bias[c]);
    return narrow<Scalar>(relu && sum <= 0 ? 0 : sum);
}

// y[n, f, o] = sum over c, k of x[n, c, o * stride - padding + k * dilation] * w[f, c, k]
extern "C" __global__ void conv_kernel(const Scalar* __restrict__ x, const Scalar* __restrict__ w,
                                       const Scalar* __restrict__ bias, Scalar* __restrict__ y, const Geometry g,
                                       const int has_bias, const int relu) {
    const long long index = thread_index();
    if (index >= elements(g.batch, g.out_channels, g.output)) return;
    const Element out = element(index, g.out_channels, g.output);
    const int channels = g.in_channels / g.groups;
    const int first = out.c / (g.out_channels / g.groups) * channels;  // channel of x where this filter's group begins

    Sum sum = 0;
    for (int k0 = 0; k0 < g.kernel[0]; ++k0) {
        const int i0 = input_at(out.s0, k0, 0, g);
        if (i0 < 0) continue;
        for (int k1 = 0; k1 < g.kernel[1]; ++k1) {
            const int i1 = input_at(out.s1, k1, 1, g);
            if (i1 < 0) continue;
            for (int k2 = 0; k2 < g.kernel[2]; ++k2) {
                const int i2 = input_at(out.s2, k2, 2, g);
                if (i2 < 0) continue;
                const Scalar* run = x + offset(out.n, i0, i1, i2, first, g.in_channels, g.input);
                for (int c = 0; c < channels; ++c)
                    sum += widen(run[c]) * widen(w[weight_offset(out.c, c, k0, k1, k2, channels, g.kernel)]);
            }
        }
    }
    y[index] = finished(sum, bias, out.c, has_bias, relu);
}

// x[n, c, i] = sum over f, k of y[n, f, o] * w[f, c, k], where tap k of output o meets input i
extern "C" __global__ void conv_input_kernel(const Scalar* __restrict__ y, const Scalar* __restrict__ w,
                                             const Scalar* __restrict__ bias, Scalar* __restrict__ x, const Geometry g,
                                             const int has_bias, const int relu) {
    const long long index = thread_index();
    if (index >= elements(g.batch, g.in_channels, g.input)) return;
    const Element in = element(index, g.in_channels, g.input);
    const int channels = g.in_channels / g.groups, filters = g.out_channels / g.groups;
    const int first = in.c / channels * filters;  // filter where this channel's group begins

    Sum sum = 0;
    for (int k0 = 0; k0 < g.kernel[0]; ++k0) {
        const int o0 = output_at(in.s0, k0, 0, g);
        if (o0 < 0) continue;
        for (int k1 = 0; k1 < g.kernel[1]; ++k1) {
            const int o1 = output_at(in.s1, k1, 1, g);
            if (o1 < 0) continue;
            for (int k2 = 0; k2 < g.kernel[2]; ++k2) {
                const int o2 = output_at(in.s2, k2, 2, g);
                if (o2 < 0) continue;
                const Scalar* run = y + offset(in.n, o0, o1, o2, 0, g.out_channels, g.output);
                for (int f = first; f < first + filters; ++f)
                    sum += widen(run[f]) * widen(w[weight_offset(f, in.c % channels, k0, k1, k2, channels, g.kernel)]);
            }
        }
    }
    x[index] = finished(sum, bias, in.c, has_bias, relu);
}

// w[f, c, k] = sum over n, o of x[n, c, o * stride - padding + k * dilation] * y[n, f, o]
extern "C" __global__ void conv_weight_kernel(const Scalar* __restrict__ x, const Scalar* __restrict__ y,
                                              Scalar* __restrict__ w, const Geometry g) {
    const long long index = thread_index();
    const int channels = g.in_channels / g.groups;
    if (index >= elements(g.out_channels, channels, g.kernel)) return;
    const int k2 = index % g.kernel[2], k1 = index / g.kernel[2] % g.kernel[1];
    const long long above = index / g.kernel[2] / g.kernel[1];
    const int k0 = above % g.kernel[0], f = above / g.kernel[0] / channels;
    const int c = f / (g.out_channels / g.groups) * channels + above / g.kernel[0] % channels;

    Sum sum = 0;
    for (int n = 0; n < g.batch; ++n)
        for (int o0 = 0; o0 < g.output[0]; ++o0) {
            const int i0 = input_at(o0, k0, 0, g);
            if (i0 < 0) continue;
            for (int o1 = 0; o1 < g.output[1]; ++o1) {
                const int i1 = input_at(o1, k1, 1, g);
                if (i1 < 0) continue;
                Sum row = 0;  // rows are summed apart: the rounding error of one long sum would be far larger
                for (int o2 = 0; o2 < g.output[2]; ++o2) {
                    const int i2 = input_at(o2, k2, 2, g);
                    if (i2 < 0) continue;
                    row += widen(x[offset(n, i0, i1, i2, c, g.in_channels, g.input)]) *
                           widen(y[offset(n, o0, o1, o2, f, g.out_channels, g.output)]);
                }
                sum += row;
            }
        }
    w[index] = narrow<Scalar>(sum);
}
