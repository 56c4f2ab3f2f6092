// What the direct kernels share: the sizes of one convolution or pooling, and how a thread finds its element.
//
// Arrays are channels-last in memory, (batch, three spatial axes, channels); fewer spatial axes are folded into three
// by leading axes of size 1. Positions fit an int (launch.py checks that), offsets into an array are 64 bits wide.

// launch.py fills this: GEOMETRY there lists the same fields in the same order.
struct Geometry {
    int batch, in_channels, out_channels, groups;
    int input[3], kernel[3], output[3], stride[3], padding[3], dilation[3];
};

struct Element {
    int n, s0, s1, s2, c;  // batch, spatial position, channel
};

// One thread for each element of the result: its number in the order of memory.
__device__ inline long long thread_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

__device__ inline long long elements(int batch, int channels, const int (&size)[3]) {
    return (long long)batch * channels * size[0] * size[1] * size[2];
}

template <typename Index> __device__ inline Element split(Index index, int channels, const int (&size)[3]) {
    Element e;
    e.c = index % channels, index /= channels;
    e.s2 = index % size[2], index /= size[2];
    e.s1 = index % size[1], index /= size[1];
    e.s0 = index % size[0], e.n = index / size[0];
    return e;
}

// A device divides 64-bit numbers several times slower than 32-bit ones, which nearly always suffice.
__device__ inline Element element(long long index, int channels, const int (&size)[3]) {
    return index < 1ll << 32 ? split((unsigned)index, channels, size) : split(index, channels, size);
}

__device__ inline long long offset(int n, int s0, int s1, int s2, int c, int channels, const int (&size)[3]) {
    return ((((long long)n * size[0] + s0) * size[1] + s1) * size[2] + s2) * channels + c;
}

// Where tap (k0, k1, k2) of filter f and channel c lies: weights are (F, C / groups, k0, k1, k2), C-contiguous.
__device__ inline long long weight_offset(int f, int c, int k0, int k1, int k2, int channels, const int (&kernel)[3]) {
    return ((((long long)f * channels + c) * kernel[0] + k0) * kernel[1] + k1) * kernel[2] + k2;
}

// The input position that tap k of output (or window) o meets on this axis, -1 if that is padding.
__device__ inline int input_at(int o, int k, int axis, const Geometry& g) {
    const int i = o * g.stride[axis] - g.padding[axis] + k * g.dilation[axis];
    return 0 <= i && i < g.input[axis] ? i : -1;
}

// The output whose tap k meets input position i on this axis, -1 if there is none.
__device__ inline int output_at(int i, int k, int axis, const Geometry& g) {
    const int start = i + g.padding[axis] - k * g.dilation[axis];
    if (start < 0 || start % g.stride[axis] != 0) return -1;
    const int o = start / g.stride[axis];
    return o < g.output[axis] ? o : -1;
}
