// The gates of recurrent networks: everything of one time step that is no product, in one kernel before and one after
// each product. The specification is ../reference/recurrent.py, the same kernels in Python are
// ../numba_cuda/recurrent.py.
//
// One thread computes one unit of the state: element j of row n. The state has `size` units a row; arrays of several
// gates hold, in each row, `size` units of the first gate, then those of the second, and so on. For a convolutional GRU
// a row is a sample with all its planes, or (channels-last) one place.

#include "numbers.cuh"
#include "scalar.cuh"

// The unit of this thread; the first element of its row among `count` gates, plus j.
struct Unit {
    long long index;
    int j;

    __device__ long long gate(int k, int count, int size) const {
        return (index - j) * count + (long long)k * size + j;
    }
};

__device__ inline Unit own_unit(int size) {
    const long long index = element_index();
    return {index, (int)(index % size)};
}

// ---- plain recurrence: h = tanh(x + u + b), or relu; u = w h
extern "C" __global__ void rnn_kernel(const Scalar* __restrict__ x, const Scalar* __restrict__ u,
                                      const Scalar* __restrict__ b, Scalar* __restrict__ y, const long long elements,
                                      const int size, const int relu) {
    const Unit e = own_unit(size);
    if (e.index >= elements) return;
    const Scalar a = x[e.index] + (u[e.index] + b[e.j]);
    y[e.index] = !relu ? tanh(a) : a <= 0 ? 0 : a;
}

// The gradient of x + u; `product` is what came back through the product of the step after.
extern "C" __global__ void rnn_backward_kernel(const Scalar* __restrict__ gy, const Scalar* __restrict__ product,
                                               const Scalar* __restrict__ y, Scalar* __restrict__ gx,
                                               const long long elements, const int size, const int relu) {
    const Unit e = own_unit(size);
    if (e.index >= elements) return;
    const Scalar g = gy[e.index] + product[e.index], h = y[e.index];
    gx[e.index] = !relu ? g * (1 - h * h) : h <= 0 ? 0 : g;
}

// ---- long short-term memory: gates i, f, g, o; c = f * c + i * g; h = o * tanh(c)
extern "C" __global__ void lstm_kernel(const Scalar* __restrict__ x, const Scalar* __restrict__ u,
                                       const Scalar* __restrict__ b, const Scalar* __restrict__ before,
                                       Scalar* __restrict__ gates, Scalar* __restrict__ cells,
                                       Scalar* __restrict__ y, const long long elements, const int size) {
    const Unit e = own_unit(size);
    if (e.index >= elements) return;
    Scalar a[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const long long at = e.gate(k, 4, size);
        const Scalar sum = x[at] + (u[at] + b[k * (long long)size + e.j]);
        gates[at] = a[k] = k == 2 ? tanh(sum) : sigmoid(sum);
    }
    const Scalar c = a[1] * before[e.index] + a[0] * a[2];
    cells[e.index] = c;
    y[e.index] = a[3] * tanh(c);
}

// gc: the gradient of c, of this step's before, of the step before's after.
extern "C" __global__ void lstm_backward_kernel(const Scalar* __restrict__ gy, const Scalar* __restrict__ product,
                                                const Scalar* __restrict__ gates, const Scalar* __restrict__ cells,
                                                const Scalar* __restrict__ before, Scalar* __restrict__ gc,
                                                Scalar* __restrict__ gx, const long long elements, const int size) {
    const Unit e = own_unit(size);
    if (e.index >= elements) return;
    Scalar a[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) a[k] = gates[e.gate(k, 4, size)];
    const Scalar squashed = tanh(cells[e.index]), gh = product[e.index] + gy[e.index];
    const Scalar g = gc[e.index] + gh * a[3] * (1 - squashed * squashed);
    gx[e.gate(0, 4, size)] = g * a[2] * (a[0] * (1 - a[0]));
    gx[e.gate(1, 4, size)] = g * before[e.index] * (a[1] * (1 - a[1]));
    gx[e.gate(2, 4, size)] = g * a[0] * (1 - a[2] * a[2]);
    gx[e.gate(3, 4, size)] = gh * squashed * (a[3] * (1 - a[3]));
    gc[e.index] = g * a[1];
}

// ---- gated recurrent units: gates r, z, n; inner = the last third of u + b; h = (1 - z) * n + z * h
extern "C" __global__ void gru_kernel(const Scalar* __restrict__ x, const Scalar* __restrict__ u,
                                      const Scalar* __restrict__ b, const Scalar* __restrict__ before,
                                      Scalar* __restrict__ gates, Scalar* __restrict__ inner, Scalar* __restrict__ y,
                                      const long long elements, const int size) {
    const Unit e = own_unit(size);
    if (e.index >= elements) return;
    const long long at_r = e.gate(0, 3, size), at_z = e.gate(1, 3, size), at_n = e.gate(2, 3, size);
    const Scalar r = sigmoid(x[at_r] + (u[at_r] + b[e.j]));
    const Scalar z = sigmoid(x[at_z] + (u[at_z] + b[size + e.j]));
    const Scalar through = u[at_n] + b[2LL * size + e.j], n = tanh(r * through + x[at_n]);
    gates[at_r] = r, gates[at_z] = z, gates[at_n] = n;
    inner[e.index] = through;
    y[e.index] = (before[e.index] - n) * z + n;
}

// gx: of x; gu: of w h + b; carry: what of the gradient of h goes past the product to the step before.
extern "C" __global__ void gru_backward_kernel(const Scalar* __restrict__ gy, const Scalar* __restrict__ product,
                                               const Scalar* __restrict__ gates, const Scalar* __restrict__ inner,
                                               const Scalar* __restrict__ before, Scalar* __restrict__ carry,
                                               Scalar* __restrict__ gx, Scalar* __restrict__ gu,
                                               const long long elements, const int size) {
    const Unit e = own_unit(size);
    if (e.index >= elements) return;
    const long long at_r = e.gate(0, 3, size), at_z = e.gate(1, 3, size), at_n = e.gate(2, 3, size);
    const Scalar r = gates[at_r], z = gates[at_z], n = gates[at_n];
    const Scalar gh = carry[e.index] + product[e.index] + gy[e.index];
    const Scalar gn = gh * (1 - z) * (1 - n * n), gr = gn * inner[e.index] * (r * (1 - r));
    const Scalar gz = gh * (before[e.index] - n) * (z * (1 - z));
    gx[at_r] = gr, gx[at_z] = gz, gx[at_n] = gn;
    gu[at_r] = gr, gu[at_z] = gz, gu[at_n] = gn * r;
    carry[e.index] = gh * z;
}

// ---- convolutional gated recurrent units: gates z, r; c = tanh(x + v), v = w_c * (r h); h = h + z (c - h)
// Two products depend on each other, so there are two kernels a step. Here: both gates, and r h for the second product.
extern "C" __global__ void conv_gru_gates_kernel(const Scalar* __restrict__ x, const Scalar* __restrict__ u,
                                                 const Scalar* __restrict__ before, Scalar* __restrict__ gates,
                                                 Scalar* __restrict__ gated, const long long elements,
                                                 const int size) {
    const Unit e = own_unit(size);
    if (e.index >= elements) return;
    const long long at_z = e.gate(0, 2, size), at_r = e.gate(1, 2, size);
    const Scalar r = sigmoid(x[e.gate(1, 3, size)] + u[at_r]);
    gates[at_z] = sigmoid(x[e.gate(0, 3, size)] + u[at_z]);
    gates[at_r] = r;
    gated[e.index] = r * before[e.index];
}

extern "C" __global__ void conv_gru_state_kernel(const Scalar* __restrict__ x, const Scalar* __restrict__ v,
                                                 const Scalar* __restrict__ before, const Scalar* __restrict__ gates,
                                                 Scalar* __restrict__ candidates, Scalar* __restrict__ y,
                                                 const long long elements, const int size) {
    const Unit e = own_unit(size);
    if (e.index >= elements) return;
    const Scalar c = tanh(x[e.gate(2, 3, size)] + v[e.index]), h = before[e.index];
    candidates[e.index] = c;
    y[e.index] = (c - h) * gates[e.gate(0, 2, size)] + h;
}

// Back through the second kernel: the gradients of z's and c's sums, and what goes past the products.
extern "C" __global__ void conv_gru_state_backward_kernel(const Scalar* __restrict__ gy,
                                                          const Scalar* __restrict__ product,
                                                          const Scalar* __restrict__ gates,
                                                          const Scalar* __restrict__ candidates,
                                                          const Scalar* __restrict__ before,
                                                          Scalar* __restrict__ carry, Scalar* __restrict__ gzr,
                                                          Scalar* __restrict__ gc, const long long elements,
                                                          const int size) {
    const Unit e = own_unit(size);
    if (e.index >= elements) return;
    const long long at_z = e.gate(0, 2, size);
    const Scalar z = gates[at_z], c = candidates[e.index], gh = carry[e.index] + product[e.index] + gy[e.index];
    gc[e.index] = (1 - c * c) * (gh * z);
    gzr[at_z] = (1 - z) * z * (gh * (c - before[e.index]));
    carry[e.index] = gh - gh * z;
}

// Back through the first kernel; gated: the gradient of r h, from the second product.
extern "C" __global__ void conv_gru_gates_backward_kernel(const Scalar* __restrict__ gated,
                                                          const Scalar* __restrict__ gates,
                                                          const Scalar* __restrict__ before,
                                                          Scalar* __restrict__ carry, Scalar* __restrict__ gzr,
                                                          const long long elements, const int size) {
    const Unit e = own_unit(size);
    if (e.index >= elements) return;
    const long long at_r = e.gate(1, 2, size);
    const Scalar r = gates[at_r], g = gated[e.index];
    gzr[at_r] = (1 - r) * r * (g * before[e.index]);
    carry[e.index] += g * r;
}
