// Batch normalisation and its backward pass. The specification is ../reference/normalization.py, the same kernels in
// Python are ../numba_cuda/normalization.py.
//
// Each pass over the data (channels.cuh) reads it once and is limited by memory alone.

#include "numbers.cuh"
#include "scalar.cuh"
#include "channels.cuh"

// The moments of some numbers. Adding one (Welford 1962) and joining two sets (Chan, Golub & LeVeque 1979) never
// subtracts large numbers from each other, as E[x^2] - E[x]^2 does, which loses everything where |mean| >> deviation.
struct Moments {
    Scalar count, mean, squares;  // squares: the sum of (x - mean)^2

    __device__ void clear() { count = mean = squares = 0; }
    __device__ void add(Scalar x) {
        count += 1;
        const Scalar before = x - mean;
        mean += before * (1 / count);  // the division waits for no memory
        squares += before * (x - mean);
    }
    __device__ void join(const Moments& other) {
        if (other.count == 0) return;
        const Scalar total = count + other.count, share = other.count / total, apart = other.mean - mean;
        mean += apart * share;
        squares += other.squares + apart * apart * count * share;
        count = total;
    }
};

// What the gradients of beta and gamma are: sums of g and of g times the normalised x.
struct Sums {
    Scalar g, normal;

    __device__ void clear() { g = normal = 0; }
    __device__ void join(const Sums& other) { g += other.g, normal += other.normal; }
};

// ---- forward: mean and variance of each channel, then y = (x - mean) * gamma / sqrt(var + eps) + beta
extern "C" __global__ void __launch_bounds__(THREADS)
batch_norm_moments_kernel(const Storage* __restrict__ x, Scalar* __restrict__ parts, const Shape s) {
    Moments own;
    own.clear();
    for_own_elements(s, [&](long long at) { own.add(read(x[at])); });
    leave(own, parts, s);
}

extern "C" __global__ void __launch_bounds__(THREADS)
batch_norm_finish_kernel(const Scalar* __restrict__ parts, Scalar* __restrict__ mean, Scalar* __restrict__ var,
                         const Shape s) {
    const Moments all = collected<Moments>(parts, blockIdx.x, s.parts);
    if (threadIdx.x == 0) mean[blockIdx.x] = all.mean, var[blockIdx.x] = all.squares / all.count;
}

extern "C" __global__ void __launch_bounds__(THREADS)
batch_norm_apply_kernel(const Storage* __restrict__ x, const Storage* __restrict__ gamma,
                        const Storage* __restrict__ beta, const Scalar* __restrict__ mean,
                        const Scalar* __restrict__ var, Storage* __restrict__ y, const Scalar eps, const Shape s) {
    const int channel = min(own_channel(s), s.channels - 1);
    const Scalar centre = mean[channel], scale = read(gamma[channel]) / sqrt(var[channel] + eps);
    const Scalar shift = read(beta[channel]);
    for_own_elements(s, [&](long long at) { y[at] = stored((read(x[at]) - centre) * scale + shift); });
}

// ---- backward: the sums are the gradients of beta and gamma, and what gx is made of
extern "C" __global__ void __launch_bounds__(THREADS)
batch_norm_sums_kernel(const Storage* __restrict__ g, const Storage* __restrict__ x, const Scalar* __restrict__ mean,
                       const Scalar* __restrict__ var, Scalar* __restrict__ parts, const Scalar eps, const Shape s) {
    const int channel = min(own_channel(s), s.channels - 1);
    const Scalar centre = mean[channel], scale = 1 / sqrt(var[channel] + eps);
    Sums own;
    own.clear();
    for_own_elements(s, [&](long long at) {
        const Scalar slope = read(g[at]);
        own.g += slope;
        own.normal += slope * ((read(x[at]) - centre) * scale);
    });
    leave(own, parts, s);
}

extern "C" __global__ void __launch_bounds__(THREADS)
batch_norm_sums_finish_kernel(const Scalar* __restrict__ parts, Scalar* __restrict__ ggamma,
                              Scalar* __restrict__ gbeta, const Shape s) {
    const Sums all = collected<Sums>(parts, blockIdx.x, s.parts);
    if (threadIdx.x == 0) ggamma[blockIdx.x] = all.normal, gbeta[blockIdx.x] = all.g;
}

// gx = gamma / sqrt(var + eps) * (g - mean of g - normal * mean of (g * normal)), normal = (x - mean) / sqrt(var + eps)
extern "C" __global__ void __launch_bounds__(THREADS)
batch_norm_input_kernel(const Storage* __restrict__ g, const Storage* __restrict__ x,
                        const Storage* __restrict__ gamma, const Scalar* __restrict__ mean,
                        const Scalar* __restrict__ var, const Scalar* __restrict__ ggamma,
                        const Scalar* __restrict__ gbeta, Storage* __restrict__ gx, const Scalar eps, const Shape s) {
    const int channel = min(own_channel(s), s.channels - 1);
    const Scalar count = s.batch * s.places, centre = mean[channel], scale = 1 / sqrt(var[channel] + eps);
    const Scalar of_g = gbeta[channel] / count, of_normal = ggamma[channel] / count;
    const Scalar factor = read(gamma[channel]) * scale;
    for_own_elements(s, [&](long long at) {
        const Scalar normal = (read(x[at]) - centre) * scale;
        gx[at] = stored((read(g[at]) - of_g - normal * of_normal) * factor);
    });
}
