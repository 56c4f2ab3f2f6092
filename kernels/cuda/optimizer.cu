// Steps of optimizers: one kernel reads a parameter, its gradient and its state, and writes what changes. Written as
// operations on whole arrays the same step of Adam moves three times as much memory. The order of operations is that of
// ../../minidl/optim, the same kernels in Python are ../numba_cuda/optimizer.py.

#include "numbers.cuh"
#include "scalar.cuh"

// Adam and AdamW. shrink: what p is multiplied with first; decay: how much of p is added to the gradient; root: the
// square root of square's correction for its start from 0; rate: the learning rate over that of mean.
extern "C" __global__ void adam_kernel(Storage* __restrict__ p, const Storage* __restrict__ g,
                                       Storage* __restrict__ mean, Storage* __restrict__ square,
                                       const long long elements, const Scalar shrink, const Scalar decay,
                                       const Scalar beta1, const Scalar rest1, const Scalar beta2, const Scalar rest2,
                                       const Scalar eps, const Scalar root, const Scalar rate) {
    const long long i = element_index();
    if (i >= elements) return;
    const Scalar x = read(p[i]) * shrink;
    Scalar slope = read(g[i]);
    if (decay != 0) slope = x * decay + slope;
    const Scalar m = read(mean[i]) * beta1 + slope * rest1;
    const Scalar v = read(square[i]) * beta2 + slope * slope * rest2;
    mean[i] = stored(m);
    square[i] = stored(v);
    p[i] = stored(x - m / (sqrt(v) / root + eps) * rate);
}

// Gradient descent, with momentum (keep: how much of the gradient enters the velocity) or without.
extern "C" __global__ void sgd_kernel(Storage* __restrict__ p, const Storage* __restrict__ g,
                                      const long long elements, const Scalar decay, const Scalar rate) {
    const long long i = element_index();
    if (i >= elements) return;
    const Scalar x = read(p[i]);
    Scalar slope = read(g[i]);
    if (decay != 0) slope = x * decay + slope;
    p[i] = stored(x - slope * rate);
}

extern "C" __global__ void sgd_momentum_kernel(Storage* __restrict__ p, const Storage* __restrict__ g,
                                               Storage* __restrict__ velocity, const long long elements,
                                               const Scalar decay, const Scalar momentum, const Scalar keep,
                                               const int nesterov, const Scalar rate) {
    const long long i = element_index();
    if (i >= elements) return;
    const Scalar x = read(p[i]);
    Scalar slope = read(g[i]);
    if (decay != 0) slope = x * decay + slope;
    const Scalar v = read(velocity[i]) * momentum + slope * keep;
    velocity[i] = stored(v);
    p[i] = stored(x - (nesterov ? v * momentum + slope : v) * rate);
}
