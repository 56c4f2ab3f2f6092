// Steps of optimizers: one kernel reads parameters, their gradients and their state, and writes what changes. Written as
// operations on whole arrays the same step of Adam moves three times as much memory, and each small parameter would
// cost several launches. The order of operations is that of ../../minidl/optim, the same kernels in Python are
// ../numba_cuda/optimizer.py.

#include "numbers.cuh"
#include "scalar.cuh"

// A parameter: its arrays and its own numbers. Of its blocks the first is number first_block of the grid.
struct Tensor {
    Storage* p;
    const Storage* g;
    Storage* state[2];
    long long elements;
    double numbers[2];
    int first_block, unused;
};

// As many as fit into what a kernel may be given by value: no table has to be copied to the device first.
constexpr int MOST = 60;
struct Tensors {
    Tensor tensor[MOST];
    int count, unused;
    const double* numbers;  // two for each, where they change between replays of a CUDA graph; else null
};

// The parameter whose elements this block has: its place in the table.
__device__ inline int own_tensor(const Tensors& tensors) {
    int low = 0, high = tensors.count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (tensors.tensor[middle].first_block <= (int)blockIdx.x) low = middle; else high = middle;
    }
    return low;
}

// This thread's element of it.
__device__ inline long long own_element(const Tensor& tensor) {
    return (long long)(blockIdx.x - tensor.first_block) * blockDim.x + threadIdx.x;
}

// Adam and AdamW; state: the averages of the gradient and of its square; numbers: the square root of the second one's
// correction for its start from 0, and the learning rate over that of the first. shrink: what p is multiplied with
// first; decay: how much of p is added to the gradient.
extern "C" __global__ void adam_kernel(const __grid_constant__ Tensors tensors, const Number shrink,
                                       const Scalar decay, const Scalar beta1, const Scalar rest1, const Scalar beta2,
                                       const Scalar rest2, const Scalar eps) {
    const int at = own_tensor(tensors);
    const Tensor& tensor = tensors.tensor[at];
    const double* own = tensors.numbers ? tensors.numbers + 2 * at : tensor.numbers;
    const long long i = own_element(tensor);
    if (i >= tensor.elements) return;
    const Scalar x = read(tensor.p[i]) * (Scalar)(double)shrink;
    Scalar slope = read(tensor.g[i]);
    if (decay != 0) slope = x * decay + slope;
    const Scalar m = read(tensor.state[0][i]) * beta1 + slope * rest1;
    const Scalar v = read(tensor.state[1][i]) * beta2 + slope * slope * rest2;
    tensor.state[0][i] = stored(m);
    tensor.state[1][i] = stored(v);
    tensor.p[i] = stored(x - m / (sqrt(v) / (Scalar)own[0] + eps) * (Scalar)own[1]);
}

// Gradient descent. Without momentum there is no state; with it, state: the velocity, and numbers: how much of the
// gradient enters it.
extern "C" __global__ void sgd_kernel(const __grid_constant__ Tensors tensors, const Scalar decay,
                                      const Scalar momentum, const Number rate, const int nesterov) {
    const Tensor& tensor = tensors.tensor[own_tensor(tensors)];
    const long long i = own_element(tensor);
    if (i >= tensor.elements) return;
    const Scalar x = read(tensor.p[i]);
    Scalar slope = read(tensor.g[i]);
    if (decay != 0) slope = x * decay + slope;
    if (tensor.state[0]) {
        const Scalar v = read(tensor.state[0][i]) * momentum + slope * (Scalar)tensor.numbers[0];
        tensor.state[0][i] = stored(v);
        slope = nesterov ? v * momentum + slope : v;
    }
    tensor.p[i] = stored(x - slope * (Scalar)(double)rate);
}
