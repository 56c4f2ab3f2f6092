// Adding at places, deterministically: values that go to the same place are added by one thread, in their order. The
// specification is add_at of ../arrays.py.
//
//   place: (n,) flat positions in out, sorted    order: (n,) which value goes there    Scalar: float or double

extern "C" __global__ void add_runs_kernel(const long long* __restrict__ place, const long long* __restrict__ order,
                                           const Scalar* __restrict__ values, Scalar* __restrict__ out,
                                           const long long n) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= n || (i > 0 && place[i - 1] == place[i])) return;  // another thread's run
    Scalar sum = out[place[i]];
    for (long long j = i; j < n && place[j] == place[i]; ++j) sum += values[order[j]];
    out[place[i]] = sum;
}
