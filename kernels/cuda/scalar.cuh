// Storage is what arrays hold, Scalar what is computed in: 16-bit numbers are read, computed with in float, and rounded
// once, when they are written. fused.py says what Storage is: float, double, or a struct of numbers.cuh.

typedef Wide<Storage>::type Scalar;

__device__ inline Scalar read(Storage value) { return widen(value); }
__device__ inline Storage stored(Scalar value) { return narrow<Storage>(value); }

// One thread for each element of the result: its number in C order.
__device__ inline long long element_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

__device__ inline Scalar sigmoid(Scalar a) { return 1 / (1 + exp(-a)); }  // exp(-a) may be infinite: 0 is right
