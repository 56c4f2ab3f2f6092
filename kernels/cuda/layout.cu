// What surrounds the products: bringing inputs into channels-last order, weights into rows, and adding up splits.
// One thread computes one element of the result (the transpose excepted), sums run in a fixed order.
//
// Source is what an array holds, Target what the product reads: equal, or Source is float and Target of two bytes.

#include "numbers.cuh"

// (N, C, S) -> (N, S, groups, padded): each group's channels together, filled up with zeros. `planar` says how the
// source lies: 1 (N, C, S), 0 (N, S, C). Blocks of 32 x 8 threads move tiles of 32 channels x 32 positions.
extern "C" __global__ void channels_last_kernel(const Source* __restrict__ x, Target* __restrict__ y, const int batch,
                                                const int channels, const int size, const int groups, const int padded,
                                                const int planar) {
    __shared__ Source tile[32][33];  // 33: a column's elements lie in different banks
    const int across = (groups * padded + 31) / 32, along = (size + 31) / 32;
    const int c0 = blockIdx.x % across * 32, s0 = blockIdx.x / across % along * 32;
    const int n = blockIdx.x / across / along;
    const int per_group = channels / groups;

    auto source = [&](int c) {  // the channel of x that goes to channel c of y, or -1
        return c < groups * padded && c % padded < per_group ? c / padded * per_group + c % padded : -1;
    };
    if (planar) {
        for (int j = threadIdx.y; j < 32; j += 8) {
            const int c = source(c0 + j), s = s0 + threadIdx.x;
            if (c >= 0 && s < size) tile[j][threadIdx.x] = x[((long long)n * channels + c) * size + s];
        }
        __syncthreads();
    }
    for (int j = threadIdx.y; j < 32; j += 8) {
        const int c = c0 + threadIdx.x, s = s0 + j, from = source(c);
        if (c >= groups * padded || s >= size) continue;
        Target value = narrow<Target>(0.f);
        if (from >= 0)
            value = narrow<Target>(
                widen(planar ? tile[threadIdx.x][j] : x[((long long)n * size + s) * channels + from]));
        y[((long long)n * size + s) * groups * padded + c] = value;
    }
}

// plan.py fills these: PACKED_PHASE and PACKED there list the same fields in the same order.
struct PackedPhase {
    int begin, pitch;           // where its rows begin in the result, and elements from row to row
    int taps[3], first_tap[3];  // its taps are first_tap, first_tap + tap_step, …
};

struct Packed {
    int elements, phases;
    int rows, channels, padded;  // of a group: rows, and what k counts for each tap, as it is and filled up
    int row_stride, channel_stride, group_stride;  // in w
    int kernel[3], tap_step[3];
    PackedPhase phase[27];
};

// w (F, C / groups, k0, k1, k2) -> rows (phase, group, row, (t0, t1, t2, c)), filled up with zeros
extern "C" __global__ void pack_kernel(const Source* __restrict__ w, Target* __restrict__ out,
                                       const __grid_constant__ Packed g) {
    int index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= g.elements) return;
    int i = 0;
    while (i + 1 < g.phases && index >= g.phase[i + 1].begin) ++i;
    const PackedPhase& p = g.phase[i];
    const int k = (index - p.begin) % p.pitch, row = (index - p.begin) / p.pitch;
    const int c = k % g.padded, tap = k / g.padded;
    Target value = narrow<Target>(0.f);
    if (c < g.channels && tap < p.taps[0] * p.taps[1] * p.taps[2]) {
        const int t0 = p.first_tap[0] + tap / p.taps[2] / p.taps[1] * g.tap_step[0];
        const int t1 = p.first_tap[1] + tap / p.taps[2] % p.taps[1] * g.tap_step[1];
        const int t2 = p.first_tap[2] + tap % p.taps[2] * g.tap_step[2];
        const long long from = (long long)(row / g.rows) * g.group_stride + (long long)(row % g.rows) * g.row_stride +
                               (long long)c * g.channel_stride + (t0 * g.kernel[1] + t1) * g.kernel[2] + t2;
        value = narrow<Target>(widen(w[from]));
    }
    out[index] = value;
}

// Adds the copies of y that the splits of a product left (channels-last, float or double), then bias and ReLU.
extern "C" __global__ void finish_kernel(const Wide<Target>::type* __restrict__ parts, const Target* __restrict__ bias,
                                         Target* __restrict__ y, const long long size, const int splits,
                                         const int channels, const int has_bias, const int relu) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= size) return;
    Wide<Target>::type sum = 0;
    for (int split = 0; split < splits; ++split) sum += parts[split * size + index];
    if (has_bias) sum += widen(bias[index % channels]);
    if (relu && sum <= 0) sum = 0;
    y[index] = narrow<Target>(sum);
}

// Adds the copies of w that the splits left, rows (group, filter, (tap, channel)) -> (F, channels, taps)
extern "C" __global__ void finish_weight_kernel(const Wide<Target>::type* __restrict__ parts, Target* __restrict__ w,
                                                const int filters, const int channels, const int padded,
                                                const int taps, const int splits) {
    const long long index = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (long long)filters * channels * taps) return;
    const int tap = index % taps, c = index / taps % channels;
    const long long f = index / taps / channels, size = (long long)filters * taps * padded;
    Wide<Target>::type sum = 0;
    for (int split = 0; split < splits; ++split) sum += parts[split * size + (f * taps + tap) * padded + c];
    w[index] = narrow<Target>(sum);
}
