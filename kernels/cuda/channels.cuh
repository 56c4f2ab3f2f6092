// Passes over all elements of each channel, and sums over them that are the same bits in every run.
//
// The arrays are (batch, channels, places): contiguous planes, or channels-last, which is the same with rows for a
// batch and one place: (rows, channels, 1). A block is `width` channels side by side times `members` threads for each,
// so that neighbouring threads read neighbouring addresses in both layouts. A row is one pair of sample and place;
// blocks divide the rows among them.
//
// Every thread adds its own elements in order, threads of a block meet in a tree, and blocks leave their parts in
// memory, where a second kernel joins them in order. An atomicAdd would be one kernel less, and would add in the order
// in which blocks happen to finish.

#define THREADS 256

// channels.py fills this: SHAPE there lists the same fields in the same order.
struct Shape {
    long long batch, places, rows_of_part;
    int channels, width, members, parts;
};

// Joins what the members of each channel of a block hold, in a tree; member 0 gets it.
template <typename Part>
__device__ inline Part joined(Part own, int width, int members) {
    __shared__ Part parts[THREADS];
    parts[threadIdx.x] = own;
    for (int half = members / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half * width) {
            own.join(parts[threadIdx.x + half * width]);
            parts[threadIdx.x] = own;
        }
    }
    return own;
}

__device__ inline int own_channel(const Shape& s) { return blockIdx.x * s.width + threadIdx.x % s.width; }

// visit(offset) for the elements of this thread: those of its channel, in its block's part of the rows, every
// members-th. A row is one pair of sample and place; stepping through both needs no division.
template <typename Visit>
__device__ inline void for_own_elements(const Shape& s, Visit visit) {
    const int channel = own_channel(s);
    if (channel >= s.channels) return;
    const long long begin = blockIdx.y * s.rows_of_part, rows = s.batch * s.places;
    const long long end = min(begin + s.rows_of_part, rows);
    long long row = begin + threadIdx.x / s.width;
    long long n = row / s.places, place = row % s.places;
    const long long samples = s.members / s.places, rest = s.members % s.places;  // of one step
#pragma unroll 4
    for (; row < end; row += s.members) {
        visit((n * s.channels + channel) * s.places + place);
        n += samples, place += rest;
        if (place >= s.places) place -= s.places, ++n;
    }
}

// The joined part of a block goes to memory, parts of a channel side by side.
template <typename Part>
__device__ inline void leave(const Part& own, Scalar* parts, const Shape& s) {
    const Part all = joined(own, s.width, s.members);
    if (threadIdx.x < s.width && own_channel(s) < s.channels)
        ((Part*)parts)[(long long)own_channel(s) * s.parts + blockIdx.y] = all;
}

// All parts of a channel, joined by one block.
template <typename Part>
__device__ inline Part collected(const Scalar* parts, int channel, int count) {
    Part own;
    own.clear();
    for (int i = threadIdx.x; i < count; i += blockDim.x) own.join(((const Part*)parts)[(long long)channel * count + i]);
    return joined(own, 1, blockDim.x);
}
