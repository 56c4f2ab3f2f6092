// CUDA C++ on the CPU, for checking kernels where there is no device: included in front of a .cu file that an ordinary
// C++17 compiler then compiles (module.py). One block runs at a time, each of its threads as a fiber that runs until it
// reaches a barrier, in an order the caller chooses. What races on a device gives different bits in different orders.
//
// Found here: a missing __syncthreads (by the order, or as poison: shared memory starts as NaN), barriers reached by
// some threads only, deadlocks, warp operations whose lanes disagree, too much shared memory, overflowing stacks; an
// asynchronous copy that nobody waited for (its target holds poison until its thread waits), one whose ends are not
// aligned; a wrong fragment of a tensor-core product (they are computed from the layouts that the PTX manual gives).
// Not here: clusters, textures, memory-model races between warps.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define MINIDL_CUDA_HOST 1  // a .cu file may offer plain C++ in place of PTX under this name

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };

namespace cuda_host {

constexpr unsigned WARP = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t MAX_SHARED = 227 * 1024;  // what one block may have on compute capability 9.0
constexpr size_t STACK = 64 * 1024;
constexpr unsigned char POISON = 0xFF;  // NaN in every float type, -1 in every signed integer
constexpr unsigned char STACK_MARK = 0xA5;

// ---- threads --------------------------------------------------------------------------------------------------------

enum State { NEW, READY, AT_BARRIER, IN_WARP_OPERATION, FINISHED };

struct Warp {  // a meeting of lanes: all in `expected` arrive, then the generation changes and all go on
    unsigned arrived, expected, generation;
    const char* operation;
    unsigned char slot[WARP][32];
};

struct Copy {  // an asynchronous copy under way
    unsigned char* to;
    const void* from;
    unsigned bytes, zeros;
};

struct Fiber {
    State state;
    ucontext_t start;
    jmp_buf resume;
    unsigned char* stack;
    uint3 index;
    unsigned number;      // within the block
    int line, barrier;    // where it waits: source line, and a number that tells barriers of one line apart
    unsigned generation;  // of its warp when it began to wait
    std::vector<std::vector<Copy>> copies;  // groups of them, the latest still open
};

struct Launch {
    dim3 grid, block;
    unsigned shared_bytes;
    unsigned order;  // of blocks and threads: 0 ascending, 1 descending, others are different shuffles
};

static Launch launched;
static uint3 block_index;
static Fiber* current;
static jmp_buf scheduler;
static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static std::vector<double2> dynamic_shared;                  // double2: aligned for every vector type
static std::vector<std::pair<void*, size_t>> static_shared;  // __shared__ variables met in this block so far
static char message[400];
static void (*invoke)(void*);
static void* invoked_with;

template <typename... Values>
void complain(const char* format, Values... values) {
    const int used = snprintf(message, sizeof message, format, values...);
    snprintf(message + used, sizeof message - used, " (block %u, %u, %u)", block_index.x, block_index.y, block_index.z);
}

template <typename... Values>
[[noreturn]] void fail(const char* format, Values... values) {  // from inside a kernel: ends the launch
    complain(format, values...);
    _longjmp(scheduler, 2);
}

inline void wait_as(State state) {
    current->state = state;
    if (_setjmp(current->resume) == 0) _longjmp(scheduler, 1);
}

static void fiber_main() {
    invoke(invoked_with);
    current->state = FINISHED;
    _longjmp(scheduler, 1);
}

static void resume(Fiber& fiber) {  // until it waits or ends
    current = &fiber;
    if (fiber.state != NEW) _longjmp(fiber.resume, 1);
    fiber.state = READY;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack;
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, fiber_main, 0);
    setcontext(&fiber.start);
}

inline void barrier(int line, int number) {
    current->line = line;
    current->barrier = number;
    wait_as(AT_BARRIER);
}

// The i-th of n things in a given order; shuffles are i -> a * i + b modulo n with a and n coprime.
static uint64_t shuffled(uint64_t i, uint64_t n, unsigned order) {
    if (order == 0) return i;
    if (order == 1) return n - 1 - i;
    auto coprime = [n](uint64_t a) {
        for (uint64_t b = n; b;) std::swap(a %= b, b);
        return a == 1;
    };
    uint64_t a = (order * 0x9E3779B1ull + 5) % 1000003 % n + 1;
    while (!coprime(a)) ++a;
    return (a * i + order * 7919ull) % n;
}

// All threads wait: at one and the same barrier, or the kernel is wrong.
static bool release_barrier() {
    const Fiber* first = nullptr;
    unsigned in_warp_operation = 0, at_barrier = 0;
    for (Fiber& fiber : fibers) {
        in_warp_operation += fiber.state == IN_WARP_OPERATION;
        if (fiber.state != AT_BARRIER) continue;
        ++at_barrier;
        if (!first) first = &fiber;
        if (fiber.barrier != first->barrier) {
            complain("divergent barriers: thread %u waits at line %d, thread %u at line %d", first->number, first->line,
                     fiber.number, fiber.line);
            return false;
        }
    }
    if (in_warp_operation) {
        complain("deadlock: %u threads wait in warp operations, %u at a barrier", in_warp_operation, at_barrier);
        return false;
    }
    for (Fiber& fiber : fibers)
        if (fiber.state == AT_BARRIER) fiber.state = READY;
    return true;
}

static bool run_block() {
    const unsigned threads = fibers.size();
    const dim3& size = launched.block;
    static_shared.clear();
    memset(warps.data(), 0, warps.size() * sizeof(Warp));
    memset(dynamic_shared.data(), POISON, dynamic_shared.size() * sizeof(double2));
    for (unsigned i = 0; i < threads; ++i) {
        fibers[i].state = NEW;
        fibers[i].number = i;
        fibers[i].copies.assign(1, {});
        fibers[i].index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    }

    // volatile: these live across _setjmp
    for (volatile unsigned finished = 0; finished < threads;) {
        volatile bool progress = false;
        for (volatile unsigned i = 0; i < threads; i = i + 1) {
            Fiber& fiber = fibers[shuffled(i, threads, launched.order)];
            if (fiber.state == IN_WARP_OPERATION && warps[fiber.number / WARP].generation != fiber.generation)
                fiber.state = READY;
            if (fiber.state != NEW && fiber.state != READY) continue;
            progress = true;
            const int reason = _setjmp(scheduler);
            if (reason == 0) resume(fiber);
            if (reason == 2) return false;
            if (current->stack[0] != STACK_MARK) {
                complain("thread %u overflowed its stack of %zu bytes", current->number, STACK);
                return false;
            }
            if (current->state == FINISHED) finished = finished + 1;
        }
        if (!progress && !release_barrier()) return false;
    }
    return true;
}

static bool run_grid() {
    const dim3 &grid = launched.grid, &block = launched.block;
    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    const unsigned threads = block.x * block.y * block.z;
    message[0] = 0;
    while (fibers.size() > threads) free(fibers.back().stack), fibers.pop_back();
    while (fibers.size() < threads) {
        fibers.emplace_back();
        fibers.back().stack = (unsigned char*)malloc(STACK);
        fibers.back().stack[0] = STACK_MARK;
    }
    warps.resize((threads + WARP - 1) / WARP);
    dynamic_shared.resize((launched.shared_bytes + sizeof(double2) - 1) / sizeof(double2));
    for (volatile uint64_t i = 0; i < blocks; i = i + 1) {
        const uint64_t b = shuffled(i, blocks, launched.order);
        block_index = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / (uint64_t(grid.x) * grid.y))};
        if (!run_block()) return false;
    }
    return true;
}

// ---- shared memory --------------------------------------------------------------------------------------------------
// module.py turns `__shared__ float a[8];` into `static float a[8]; cuda_host::shared(&a, sizeof(a));`

inline void shared(void* variable, size_t bytes) {
    size_t total = launched.shared_bytes + bytes;
    for (auto& [known, size] : static_shared) {
        if (known == variable) return;
        total += size;
    }
    if (total > MAX_SHARED) fail("%zu bytes of shared memory are more than a block can have", total);
    static_shared.emplace_back(variable, bytes);
    memset(variable, POISON, bytes);
}

// ---- warps ----------------------------------------------------------------------------------------------------------

inline void meet(unsigned mask, const char* operation) {
    Warp& warp = warps[current->number / WARP];
    const unsigned lane = 1u << current->number % WARP;
    if (!(mask & lane)) fail("%s: lane %u is not in its own mask %08x", operation, current->number % WARP, mask);
    if (!warp.arrived) {
        warp.expected = mask;
        warp.operation = operation;
    } else if (warp.expected != mask || strcmp(warp.operation, operation)) {
        fail("lanes disagree: %s with mask %08x meets %s with mask %08x", operation, mask, warp.operation,
             warp.expected);
    }
    warp.arrived |= lane;
    if (warp.arrived == warp.expected) {
        warp.arrived = 0;
        ++warp.generation;
    } else {
        current->generation = warp.generation;
        wait_as(IN_WARP_OPERATION);
    }
}

// What lane `from` gives, to each lane; lanes outside the mask give poison.
template <typename T, typename From>
T exchange(unsigned mask, T value, From from, const char* operation) {
    static_assert(sizeof(T) <= sizeof(Warp::slot[0]), "");
    Warp& warp = warps[current->number / WARP];
    const unsigned lane = current->number % WARP;
    memcpy(warp.slot[lane], &value, sizeof(T));
    meet(mask, operation);
    const unsigned source = from(lane);
    if (source < WARP && (mask >> source & 1)) memcpy(&value, warp.slot[source], sizeof(T));
    else memset(&value, POISON, sizeof(T));
    meet(mask, operation);  // nobody puts a new value before all have read
    return value;
}

// ---- asynchronous copies --------------------------------------------------------------------------------------------
// A copy lands when its thread waits for it. Until then its target is poison: who reads too early, or still reads what
// was there before, gets NaN.

inline void copy_later(void* to, const void* from, unsigned bytes, unsigned zeros) {
    if (uintptr_t(to) % bytes || uintptr_t(from) % bytes)
        fail("cp.async of %u bytes: thread %u copies from %p to %p, both must be aligned", bytes, current->number, from,
             to);
    memset(to, POISON, bytes);
    current->copies.back().push_back({(unsigned char*)to, from, bytes, zeros});
}

inline void copies_arrive(size_t groups_left) {
    auto& groups = current->copies;
    size_t done = groups.size() - 1 > groups_left ? groups.size() - 1 - groups_left : 0;
    for (size_t i = 0; i < done; ++i)
        for (const Copy& copy : groups[i]) {
            memset(copy.to, 0, copy.bytes);
            memcpy(copy.to, copy.from, copy.bytes - copy.zeros);
        }
    groups.erase(groups.begin(), groups.begin() + done);
}

// ---- tensor cores ---------------------------------------------------------------------------------------------------

struct Fragments {
    unsigned a[4], b[2];
};

// One warp multiplies: d += a * b in the layout that the PTX manual gives for m16n8k8 (4-byte elements) and m16n8k16
// (2-byte elements, pairs in a register, the first in the lower half). value(register, i) is its i-th element. Products
// are exact and their sum with d is cut off, not rounded, as M. Fasi et al. (2021, doi 10.7717/peerj-cs.330) found it.
template <int K, typename Value>
void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], Value value, const char* operation) {
    constexpr unsigned PER = K / 8;  // elements in a register
    Warp& warp = warps[current->number / WARP];
    const unsigned lane = current->number % WARP;
    const Fragments mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    memcpy(warp.slot[lane], &mine, sizeof mine);
    meet(0xffffffffu, operation);
    for (unsigned e = 0; e < 4; ++e) {
        const unsigned row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
        double sum = d[e];
        for (unsigned k = 0; k < K; ++k) {
            const unsigned inner = k % (K / 2), across = inner / PER, i = inner % PER, half = k / (K / 2);
            Fragments left, right;
            memcpy(&left, warp.slot[row % 8 * 4 + across], sizeof left);
            memcpy(&right, warp.slot[column * 4 + across], sizeof right);
            sum += double(value(left.a[row / 8 + 2 * half], i)) * value(right.b[half], i);
        }
        d[e] = float(sum);
        if (fabs(double(d[e])) > fabs(sum)) d[e] = nextafterf(d[e], 0);
    }
    meet(0xffffffffu, operation);  // nobody brings new fragments before all have read
}

// Lane l gives the address of row l % 8 of matrix l / 8.
inline void load_matrices(unsigned (&r)[4], const void* row, bool transposed, const char* operation) {
    if (uintptr_t(row) % 16) fail("%s: lane %u gives a row at %p, not aligned", operation, current->number % WARP, row);
    Warp& warp = warps[current->number / WARP];
    const unsigned lane = current->number % WARP;
    memcpy(warp.slot[lane], row, 16);
    meet(0xffffffffu, operation);
    for (unsigned i = 0; i < 4; ++i) {
        unsigned short element[2];
        for (unsigned e = 0; e < 2; ++e) {
            const unsigned long_way = lane % 4 * 2 + e, short_way = lane / 4;
            const unsigned from = transposed ? long_way : short_way, column = transposed ? short_way : long_way;
            memcpy(&element[e], warp.slot[i * 8 + from] + 2 * column, 2);
        }
        memcpy(&r[i], element, 4);
    }
    meet(0xffffffffu, operation);
}

// ---- calling a kernel -----------------------------------------------------------------------------------------------

struct Parameter {
    int bytes;    // of the value, or of what the pointer points to (0: void)
    char kind;    // 'f' floating, 'i' integer, 'o' other
    char passed;  // 'v' by value, 'p' a pointer
};

template <typename T>
constexpr Parameter parameter() {
    using Pointee = std::remove_pointer_t<T>;
    if constexpr (std::is_void_v<Pointee>) return {0, 'o', 'p'};
    else
        return {int(sizeof(Pointee)), std::is_floating_point_v<Pointee> ? 'f' : std::is_integral_v<Pointee> ? 'i' : 'o',
                std::is_pointer_v<T> ? 'p' : 'v'};
}

template <typename... T>
int describe(void (*)(T...), Parameter* out) {
    int n = 0;
    ((out[n++] = parameter<std::remove_cv_t<T>>()), ...);
    return n;
}

template <typename... T, size_t... I>
bool call(void (*kernel)(T...), const Launch& launch, void** arguments, std::index_sequence<I...>) {
    using Values = std::tuple<std::remove_cv_t<T>...>;
    std::pair<void (*)(T...), Values> bound{kernel, Values{*(std::remove_cv_t<T>*)arguments[I]...}};
    invoke = [](void* p) {
        auto& [function, values] = *(decltype(bound)*)p;
        std::apply(function, values);
    };
    invoked_with = &bound;
    launched = launch;
    return run_grid();
}

template <typename... T>
bool call(void (*kernel)(T...), const Launch& launch, void** arguments) {
    return call(kernel, launch, arguments, std::index_sequence_for<T...>());
}

}  // namespace cuda_host

#define CUDA_HOST_EXPORT extern "C" __attribute__((visibility("default")))
CUDA_HOST_EXPORT const char* cuda_host_message() { return cuda_host::message; }
#define CUDA_HOST_KERNEL(symbol, ...)                                                                   \
    CUDA_HOST_EXPORT int symbol##_describe(cuda_host::Parameter* out) {                                 \
        return cuda_host::describe(__VA_ARGS__, out);                                                   \
    }                                                                                                   \
    CUDA_HOST_EXPORT bool symbol##_launch(const cuda_host::Launch* launch, void** arguments) {          \
        return cuda_host::call(__VA_ARGS__, *launch, arguments);                                        \
    }

// ---- the part of CUDA C++ that kernels here use ---------------------------------------------------------------------

#define threadIdx (cuda_host::current->index)
#define blockIdx (cuda_host::block_index)
#define blockDim (cuda_host::launched.block)
#define gridDim (cuda_host::launched.grid)
#define warpSize 32
#define __syncthreads() cuda_host::barrier(__LINE__, __COUNTER__)

template <typename T> T min(T a, T b) { return b < a ? b : a; }
template <typename T> T max(T a, T b) { return a < b ? b : a; }
template <typename T> T __ldg(const T* p) { return *p; }
inline float __int_as_float(int bits) { float f; memcpy(&f, &bits, 4); return f; }
inline int __float_as_int(float f) { int bits; memcpy(&bits, &f, 4); return bits; }

// ---- the functions of kernels/cuda/numbers.cuh and ptx.cuh that are PTX on a device ---------------------------------

inline float half_to_float(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                       : exponent     ? ldexpf(1024 + fraction, exponent - 25)
                                      : ldexpf(fraction, -24);
    return bits >> 15 ? -size : size;
}

inline unsigned short float_to_half(float value) {  // to nearest, ties to even
    const unsigned sign = unsigned(__float_as_int(value)) >> 31 << 15;
    if (value != value) return 0x7fff;
    const float size = fabsf(value);
    if (size >= 65520) return sign | 0x7c00;
    int exponent;
    frexpf(size, &exponent);
    exponent = exponent < -13 ? -13 : exponent;  // below, numbers are 2^-24 apart
    const float steps = nearbyintf(ldexpf(size, 11 - exponent));  // 1024 to 2048 of them in a normal number
    return sign | (steps < 1024 ? unsigned(steps) : unsigned(exponent + 13) * 1024 + unsigned(steps));
}

inline float bfloat16_to_float(unsigned short bits) { return __int_as_float(int(unsigned(bits) << 16)); }

inline unsigned round_tf32(float value) {  // ties away from zero; the lower 13 bits become 0
    if (value != value) return 0x7fffe000;
    return (unsigned(__float_as_int(value)) + 0x1000) & 0xffffe000;
}

template <int BYTES> void cp_async(void* to, const void* from, bool valid) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    cuda_host::copy_later(to, from, BYTES, valid ? 0 : BYTES);
}
inline void cp_async_commit() { cuda_host::current->copies.emplace_back(); }
template <int GROUPS> void cp_async_wait() { cuda_host::copies_arrive(GROUPS); }

inline void ldmatrix(unsigned& r0, unsigned& r1, unsigned& r2, unsigned& r3, const void* row) {
    unsigned r[4];
    cuda_host::load_matrices(r, row, false, "ldmatrix");
    r0 = r[0], r1 = r[1], r2 = r[2], r3 = r[3];
}
inline void ldmatrix_trans(unsigned& r0, unsigned& r1, unsigned& r2, unsigned& r3, const void* row) {
    unsigned r[4];
    cuda_host::load_matrices(r, row, true, "ldmatrix.trans");
    r0 = r[0], r1 = r[1], r2 = r[2], r3 = r[3];
}

inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    auto value = [](unsigned bits, unsigned) { return __int_as_float(int(bits & 0xffffe000)); };  // cuts 13 bits off
    cuda_host::multiply<8>(d, a, b, value, "mma_tf32");
}
inline void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    auto value = [](unsigned bits, unsigned i) { return half_to_float((unsigned short)(bits >> 16 * i)); };
    cuda_host::multiply<16>(d, a, b, value, "mma_f16");
}
inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    auto value = [](unsigned bits, unsigned i) { return bfloat16_to_float((unsigned short)(bits >> 16 * i)); };
    cuda_host::multiply<16>(d, a, b, value, "mma_bf16");
}

// ---- atomics, warps -------------------------------------------------------------------------------------------------

// One thread runs at a time, so plain operations are atomic.
template <typename T> T atomicAdd(T* p, T v) { const T old = *p; *p = old + v; return old; }
template <typename T> T atomicMax(T* p, T v) { const T old = *p; *p = max(old, v); return old; }
template <typename T> T atomicMin(T* p, T v) { const T old = *p; *p = min(old, v); return old; }
template <typename T> T atomicExch(T* p, T v) { const T old = *p; *p = v; return old; }
template <typename T> T atomicCAS(T* p, T expected, T v) { const T old = *p; if (old == expected) *p = v; return old; }
inline void __threadfence() {}
inline void __threadfence_block() {}

inline void __syncwarp(unsigned mask = 0xffffffffu) { cuda_host::meet(mask, "__syncwarp"); }

// Within groups of `width` lanes; a lane that would read over its group's edge gets its own value.
template <typename T> T __shfl_sync(unsigned mask, T v, int lane, int width = 32) {
    auto from = [=](unsigned me) { return (me & -width) | (lane & (width - 1)); };
    return cuda_host::exchange(mask, v, from, "__shfl_sync");
}
template <typename T> T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    auto from = [=](unsigned me) { return (me & (width - 1)) >= delta ? me - delta : me; };
    return cuda_host::exchange(mask, v, from, "__shfl_up_sync");
}
template <typename T> T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
    auto from = [=](unsigned me) { return (me & (width - 1)) + delta < unsigned(width) ? me + delta : me; };
    return cuda_host::exchange(mask, v, from, "__shfl_down_sync");
}
template <typename T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
    auto from = [=](unsigned me) { return (me & -width) == ((me ^ bits) & -width) ? me ^ bits : me; };
    return cuda_host::exchange(mask, v, from, "__shfl_xor_sync");
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned votes = predicate ? 1u << cuda_host::current->number % 32 : 0;
    for (unsigned lane = 1; lane < 32; lane *= 2) {  // lanes outside the mask count as 0, not as poison
        auto from = [=](unsigned me) { return mask >> (me ^ lane) & 1 ? me ^ lane : me; };
        votes |= cuda_host::exchange(mask, votes, from, "__ballot_sync");
    }
    return votes;
}
