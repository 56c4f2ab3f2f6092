// Softmax, its logarithm, the log-sum-exp, and softmax cross-entropy with its gradient. The specifications are
// ../reference/normalization.py and ../reference/reduction.py, the same kernels in Python are ../numba_cuda/losses.py.
//
// The arrays are (outer, classes, inner). A row is the classes of one outer and one inner index. Where classes are
// innermost (inner is 1) `members` threads share a row, so that neighbours read neighbouring numbers; otherwise each
// thread has a row of its own, and neighbours read neighbouring rows.

#include "numbers.cuh"
#include "scalar.cuh"

#define THREADS 256

// losses.py fills this: ROWS there lists the same fields in the same order.
struct Rows {
    long long outer, inner;
    int classes, members;
};

// The sum of exponentials in one pass over the numbers: `sum` is of exp(x - top), and is scaled anew when a larger
// number comes (Milakov & Gimelshein 2018). So nothing overflows, and x is read once instead of twice.
struct Total {
    Scalar top, sum;

    __device__ void clear() { top = __int_as_float(0xff800000), sum = 0; }  // -infinity
    __device__ void join(Scalar other_top, Scalar other_sum) {
        if (other_top > top) sum = sum * exp(top - other_top) + other_sum, top = other_top;
        else if (other_top == top) sum += other_sum;  // also where both are infinite: their difference would be a NaN
        else sum += other_sum * exp(other_top - top);
    }
    // 0, but NaN where the largest number is infinite: what infinity minus infinity gives in a softmax
    __device__ Scalar doubt() const { return top - top; }
};

// Which row this thread works on, where it begins, and which of its members this thread is.
struct Place {
    long long row, first;
    int member;
    bool inside;
};

__device__ inline Place own_place(const Rows& r) {
    Place p;
    p.member = threadIdx.x % r.members;
    p.row = (long long)blockIdx.x * (blockDim.x / r.members) + threadIdx.x / r.members;
    p.inside = p.row < r.outer * r.inner;
    p.first = p.row / r.inner * r.classes * r.inner + p.row % r.inner;
    return p;
}

// visit(class, offset) for the classes of this thread.
template <typename Visit>
__device__ inline void for_own_classes(const Place& p, const Rows& r, Visit visit) {
    if (p.inside)
        for (int c = p.member; c < r.classes; c += r.members) visit(c, p.first + c * r.inner);
}

// The total of this thread's row, known to all its members: they join in a tree, in the same order in every run.
__device__ inline Total row_total(const Storage* x, const Place& p, const Rows& r) {
    __shared__ Total totals[THREADS];
    Total own;
    own.clear();
    for_own_classes(p, r, [&](int, long long at) { own.join(read(x[at]), 1); });
    totals[threadIdx.x] = own;
    for (int half = r.members / 2; half > 0; half /= 2) {
        __syncthreads();
        if (p.member < half) {
            own.join(totals[threadIdx.x + half].top, totals[threadIdx.x + half].sum);
            totals[threadIdx.x] = own;
        }
    }
    __syncthreads();
    return totals[threadIdx.x - p.member];
}

// The class of a row. As in Python negative numbers count from the end; -1 is for what is no class.
__device__ inline int target_class(long long target, const Rows& r) {
    if (target < 0) target += r.classes;
    return 0 <= target && target < r.classes ? target : -1;
}

extern "C" __global__ void __launch_bounds__(THREADS)
softmax_kernel(const Storage* __restrict__ x, Storage* __restrict__ y, const Rows r) {
    const Place p = own_place(r);
    const Total total = row_total(x, p, r);
    const Scalar sum = total.sum + total.doubt();
    for_own_classes(p, r, [&](int, long long at) { y[at] = stored(exp(read(x[at]) - total.top) / sum); });
}

extern "C" __global__ void __launch_bounds__(THREADS)
log_softmax_kernel(const Storage* __restrict__ x, Storage* __restrict__ y, const Rows r) {
    const Place p = own_place(r);
    const Total total = row_total(x, p, r);
    const Scalar logarithm = log(total.sum) + total.doubt();
    for_own_classes(p, r, [&](int, long long at) { y[at] = stored(read(x[at]) - total.top - logarithm); });
}

extern "C" __global__ void __launch_bounds__(THREADS)
logsumexp_kernel(const Storage* __restrict__ x, Storage* __restrict__ y, const Rows r) {
    const Place p = own_place(r);
    const Total total = row_total(x, p, r);
    if (p.inside && p.member == 0) y[p.row] = stored(log(total.sum) + total.top);
}

// loss = log-sum-exp of the row - x of its class; NaN where the target is no class.
extern "C" __global__ void __launch_bounds__(THREADS)
softmax_cross_entropy_kernel(const Storage* __restrict__ x, const long long* __restrict__ target,
                             Storage* __restrict__ loss, Storage* __restrict__ lse, const Rows r) {
    const Place p = own_place(r);
    const Total total = row_total(x, p, r);
    if (!p.inside || p.member != 0) return;
    const int chosen = target_class(target[p.row], r);
    const Scalar all = log(total.sum) + total.top + total.doubt();
    lse[p.row] = stored(all);
    loss[p.row] = stored(all - (chosen < 0 ? __int_as_float(0x7fc00000) : read(x[p.first + chosen * r.inner])));
}

// gx = g * (softmax - 1 at the class of the row)
extern "C" __global__ void __launch_bounds__(THREADS)
softmax_cross_entropy_backward_kernel(const Storage* __restrict__ g, const Storage* __restrict__ x,
                                      const long long* __restrict__ target, const Storage* __restrict__ lse,
                                      Storage* __restrict__ gx, const Rows r) {
    const Place p = own_place(r);
    if (!p.inside) return;
    const int chosen = target_class(target[p.row], r);
    const Scalar slope = read(g[p.row]), all = read(lse[p.row]);
    for_own_classes(p, r, [&](int c, long long at) {
        const Scalar share = exp(read(x[at]) - all);
        gx[at] = stored(slope * (c == chosen ? share - 1 : share));
    });
}
