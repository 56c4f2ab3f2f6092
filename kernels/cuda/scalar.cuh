// Storage is what arrays hold, Scalar what is computed in: 16-bit numbers are read, computed with in float, and rounded
// once, when they are written. fused.py says what Storage is: float, double, or a struct of numbers.cuh.

typedef Wide<Storage>::type Scalar;

__device__ inline Scalar read(Storage value) { return widen(value); }
__device__ inline Storage stored(Scalar value) { return narrow<Storage>(value); }

// One thread for each element of the result: its number in C order.
__device__ inline long long element_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

__device__ inline Scalar sigmoid(Scalar a) { return 1 / (1 + exp(-a)); }  // exp(-a) may be infinite: 0 is right

// A number from the host, or where it will be in the device's memory: a CUDA graph repeats its kernels with the same
// arguments, so what changes between replays is read from there (launch.number).
template <typename T> struct Late {
    T value;
    const T* place;  // null: value is what counts
    __device__ operator T() const { return place ? *place : value; }
};
typedef Late<double> Number;
typedef Late<unsigned long long> Key;
