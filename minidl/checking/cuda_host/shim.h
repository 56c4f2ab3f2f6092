// CUDA C++ on the CPU, for checking kernels where there is no device: included in front of a .cu file that an ordinary
// C++17 compiler then compiles (module.py). One block runs at a time, each of its threads as a fiber that runs until it
// reaches a barrier, in an order the caller chooses. What races on a device gives different bits in different orders.
//
// Found here: a missing __syncthreads (by the order, or as poison: shared memory starts as NaN), barriers reached by
// some threads only, deadlocks, warp operations whose lanes disagree, too much shared memory, overflowing stacks; an
// asynchronous copy that nobody waited for (its target holds poison until its thread waits), one whose ends are not
// aligned; a wrong fragment of a tensor-core product (they are computed from the layouts that the PTX manual gives); of
// warpgroup products (wgmma) a missing fence, commit or wait, and shared memory or registers that change under them.
// Not here: clusters, textures, memory-model races between warps.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
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
constexpr unsigned WARPGROUP = 128;
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t MAX_SHARED = 227 * 1024;  // what one block may have on compute capability 9.0
constexpr size_t STACK = 64 * 1024;
constexpr unsigned char POISON = 0xFF;  // NaN in every float type, -1 in every signed integer
constexpr unsigned char STACK_MARK = 0xA5;

// ---- threads --------------------------------------------------------------------------------------------------------

enum State { NEW, READY, AT_BARRIER, IN_WARP_OPERATION, AT_MBARRIER, FINISHED };

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

struct Sums {  // registers that warpgroup products add to; what they will hold, and the last group that adds
    float* at;
    std::vector<float> value;
    unsigned group;
};

struct Reading {  // what a warpgroup product under way reads: shared memory, or a thread's registers
    const void* at;
    std::vector<unsigned char> bytes;
    unsigned group;
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
    unsigned waits_at, parity;              // at which mbarrier it waits, for which phase
    std::vector<size_t> unfenced;           // 16-byte pieces of dynamic shared memory it wrote since its proxy fence
    std::vector<Sums> sums;                 // of warpgroup products under way
    std::vector<Reading> reading;
    unsigned products, group;               // how many it has begun; the group that is open
    bool fenced;                            // no register was free to be used since the last wgmma.fence
};

// Dynamic shared memory, aligned as on a device. `writer` is, for each 16 bytes, 1 + the thread whose asynchronous copy
// tensor cores cannot see yet, or 0.
struct SharedMemory {
    std::vector<double2> storage;
    std::vector<unsigned short> writer;
    size_t bytes = 0;

    void resize(size_t n) {
        bytes = n;
        storage.resize((n + 1024) / sizeof(double2) + 1);
        writer.assign(n / 16 + 1, 0);
    }
    unsigned char* data() { return (unsigned char*)((uintptr_t(storage.data()) + 1023) / 1024 * 1024); }
    bool holds(const void* p) { return (unsigned char*)p >= data() && (unsigned char*)p < data() + bytes; }
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
static SharedMemory dynamic_shared;
static std::vector<std::pair<void*, size_t>> static_shared;  // __shared__ variables met in this block so far

struct Arrival {  // bytes of a bulk copy under way
    unsigned char* to;
    std::vector<unsigned char> bytes;
};

struct MBarrier {  // a barrier in shared memory
    int arrivals, missing;  // of threads in each phase, and in this one
    long long bytes;        // announced for this phase less arrived
    unsigned phase;
    std::vector<std::vector<Arrival>> copies;
};
static std::map<unsigned, MBarrier> mbarriers;  // by their offset in dynamic shared memory

inline void end_phase(MBarrier& b) {
    if (b.missing || b.bytes) return;
    b.missing = b.arrivals;
    ++b.phase;
}

inline bool land(MBarrier& b) {  // what was on its way to the barrier; whether there was anything
    const bool any = !b.copies.empty();
    for (auto& copy : b.copies)
        for (Arrival& piece : copy) {
            memcpy(piece.to, piece.bytes.data(), piece.bytes.size());
            b.bytes -= piece.bytes.size();
        }
    b.copies.clear();
    if (any) end_phase(b);
    return any;
}

static bool copies_land() {
    bool any = false;
    for (auto& [offset, barrier] : mbarriers) any |= land(barrier);
    return any;
}

struct Factors {  // of the warpgroup product that a warp computes: its 16 rows of a, and b, element by element
    std::vector<float> a, b;
    std::vector<Reading> reading;  // shared memory that its products under way read
};
static std::vector<Factors> factors;  // of each warp
static std::vector<std::vector<std::pair<uint64_t, uint64_t>>> begun;  // each warpgroup's products: their descriptors
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
    unsigned in_warp_operation = 0, at_barrier = 0, at_mbarrier = 0;
    for (Fiber& fiber : fibers) {
        in_warp_operation += fiber.state == IN_WARP_OPERATION;
        at_mbarrier += fiber.state == AT_MBARRIER;
        if (fiber.state != AT_BARRIER) continue;
        ++at_barrier;
        if (!first) first = &fiber;
        if (fiber.barrier != first->barrier) {
            complain("divergent barriers: thread %u waits at line %d, thread %u at line %d", first->number, first->line,
                     fiber.number, fiber.line);
            return false;
        }
    }
    if (in_warp_operation || at_mbarrier) {
        complain("deadlock: %u threads wait in warp operations, %u at a barrier, %u at an mbarrier", in_warp_operation,
                 at_barrier, at_mbarrier);
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
    memset(dynamic_shared.data(), POISON, dynamic_shared.bytes);
    std::fill(dynamic_shared.writer.begin(), dynamic_shared.writer.end(), 0);
    begun.assign(threads / WARPGROUP, {});
    mbarriers.clear();
    for (Factors& f : factors) f.reading.clear();
    for (unsigned i = 0; i < threads; ++i) {
        fibers[i].state = NEW;
        fibers[i].number = i;
        fibers[i].copies.assign(1, {});
        fibers[i].unfenced.clear(), fibers[i].sums.clear(), fibers[i].reading.clear();
        fibers[i].products = fibers[i].group = 0, fibers[i].fenced = false;
        fibers[i].index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    }

    // volatile: these live across _setjmp
    for (volatile unsigned finished = 0; finished < threads;) {
        volatile bool progress = false;
        for (volatile unsigned i = 0; i < threads; i = i + 1) {
            Fiber& fiber = fibers[shuffled(i, threads, launched.order)];
            if (fiber.state == IN_WARP_OPERATION && warps[fiber.number / WARP].generation != fiber.generation)
                fiber.state = READY;
            if (fiber.state == AT_MBARRIER && mbarriers[fiber.waits_at].phase % 2 != fiber.parity) fiber.state = READY;
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
        if (!progress && !copies_land() && !release_barrier()) return false;
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
    dynamic_shared.resize(launched.shared_bytes);
    factors.resize(warps.size());
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

// Whether this lane came last; it is the first to go on.
inline bool meet(unsigned mask, const char* operation) {
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
        return true;
    }
    current->generation = warp.generation;
    wait_as(IN_WARP_OPERATION);
    return false;
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
            if (!dynamic_shared.holds(copy.to)) continue;
            const size_t piece = (copy.to - dynamic_shared.data()) / 16;
            dynamic_shared.writer[piece] = current->number + 1;
            current->unfenced.push_back(piece);
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

// ---- products of a warpgroup ----------------------------------------------------------------------------------------
// Each warp computes its 16 rows when its lanes meet. Their sums are poison until the thread waits for the product's
// group; what it reads must be the same then as when it began.

// Where shared memory begins in the 32-bit addresses that instructions take; the system keeps the first 1024 bytes.
constexpr unsigned SHARED_BASE = 1024;

inline unsigned shared_offset(const void* p, const char* operation) {
    if (!dynamic_shared.holds(p)) fail("%s: %p is not in dynamic shared memory", operation, p);
    return unsigned((const unsigned char*)p - dynamic_shared.data()) + SHARED_BASE;
}

// Where a descriptor says that a factor lies, in the canonical layouts of the PTX manual (matrix descriptors of
// wgmma.mma_async) for each width of the swizzle: byte `byte` of row i (along m or n), for rows along k; or element i,
// of two bytes, of k's row k. A descriptor may begin inside the first row of an atom.
struct Operand {
    unsigned start, lead, stride, width;

    Operand(uint64_t descriptor, const char* operation) {
        start = (descriptor & 0x3fff) << 4, lead = (descriptor >> 16 & 0x3fff) << 4;
        stride = (descriptor >> 32 & 0x3fff) << 4;
        const unsigned mode = descriptor >> 62, base = descriptor >> 49 & 7;
        width = mode == 0 ? 16 : mode == 1 ? 128 : mode == 2 ? 64 : 32;
        if (base || (width > 16 && start % (width * 8) >= width))
            fail("%s: the factor begins at %u, its atoms of %u bytes do not: that is not modelled", operation, start,
                 width * 8);
    }
    unsigned swizzled(unsigned address) const { return address ^ ((address >> 7 & (width / 16 - 1)) << 4); }
    unsigned row(unsigned i, unsigned byte) const {
        const unsigned across = width == 16 ? byte / 16 * lead + byte % 16 : byte;
        return swizzled(start + i / 8 * stride + i % 8 * width + across);
    }
    unsigned column(unsigned i, unsigned k) const {
        const unsigned per = width / 2;  // elements in a row
        const unsigned atom = width == 16 ? i / per * stride + k / 8 * lead : i / per * lead + k / 8 * stride;
        return swizzled(start + atom + k % 8 * width + i % per * 2);
    }
};

inline const unsigned char* visible(unsigned address, unsigned bytes, const char* operation) {
    const unsigned offset = address - SHARED_BASE;
    if (address < SHARED_BASE || offset + bytes > dynamic_shared.bytes)
        fail("%s reads at %u, outside dynamic shared memory", operation, offset);
    if (const unsigned writer = dynamic_shared.writer[offset / 16])
        fail("%s reads shared memory that thread %u copied to and did not fence for it (fence.proxy.async)", operation,
             writer - 1);
    return dynamic_shared.data() + offset;
}

// Element by element: `count` rows from `first` on, K elements each.
template <int K, typename Value>
void decode(std::vector<float>& out, uint64_t descriptor, unsigned first, unsigned count, bool columns, Value value,
            const char* operation) {
    constexpr unsigned SIZE = 32 / K;
    const Operand layout(descriptor, operation);
    out.resize(count * K);
    for (unsigned i = 0; i < count; ++i)
        for (unsigned k = 0; k < K; ++k) {
            unsigned bits = 0;
            const unsigned address = columns ? layout.column(first + i, k) : layout.row(first + i, k * SIZE);
            memcpy(&bits, visible(address, SIZE, operation), SIZE);
            out[i * K + k] = value(bits);
        }
}

// d (64 x N, a thread has `count` of them) += a * b. a: a descriptor, or 4 registers if `fragment`.
template <int K, typename Value>
void warpgroup_multiply(float* d, unsigned count, const unsigned* fragment, uint64_t a, uint64_t b, bool add,
                        bool columns, Value value, const char* operation) {
    Fiber& me = *current;
    const unsigned lane = me.number % WARP, warp = me.number / WARP, group = me.number / WARPGROUP, n = count * 2;
    if (launched.block.x % WARPGROUP) fail("%s: the block is not made of whole warpgroups", operation);
    if (!me.fenced) fail("%s: thread %u has not passed wgmma.fence since its last wait", operation, me.number);
    auto& together = begun[group];
    if (me.products == together.size()) together.emplace_back(a, b);
    else if (together[me.products] != std::make_pair(a, b))
        fail("%s: the threads of a warpgroup give different descriptors", operation);
    ++me.products;

    // The lanes meet here, and the last computes at once: a warp is as far ahead of the others as barriers let it.
    if (fragment) {
        memcpy(warps[warp].slot[lane], fragment, 16);
        me.reading.push_back({fragment, {(unsigned char*)fragment, (unsigned char*)fragment + 16}, me.group});
    }
    if (meet(0xffffffffu, operation)) {
        for (const Fiber& other : fibers)
            if (other.number / WARP == warp && (other.group != me.group || other.products != me.products))
                fail("%s: threads %u and %u of a warp have come different ways", operation, me.number, other.number);
        Factors& f = factors[warp];
        decode<K>(f.b, b, 0, n, columns, value, operation);
        if (!fragment) {
            decode<K>(f.a, a, warp % 4 * 16, 16, columns, value, operation);
        } else {
            f.a.resize(16 * K);
            for (unsigned row = 0; row < 16; ++row)
                for (unsigned k = 0; k < K; ++k) {  // as of mma.sync: multiply() above
                    unsigned words[4];
                    memcpy(words, warps[warp].slot[row % 8 * 4 + k % 4], 16);
                    f.a[row * K + k] = value(words[row / 8 + k / 4 * 2]);
                }
        }
        // what is read, to be looked at again when the product is done
        auto snapshot = [&](uint64_t descriptor, unsigned first, unsigned rows) {
            const Operand layout(descriptor, operation);
            for (unsigned i = 0; i < rows; i += 8)
                for (unsigned k = 0; k < (columns ? K : 2); ++k)
                    for (unsigned r = 0; r < (columns ? 1 : 8); ++r) {
                        const unsigned at = columns ? layout.column(first + i, k) : layout.row(first + i + r, k * 16);
                        const unsigned char* p = visible(at, 16, operation);
                        f.reading.push_back({p, {p, p + 16}, me.group});
                    }
        };
        snapshot(b, 0, n);
        if (!fragment) snapshot(a, warp % 4 * 16, 16);
    }

    auto sums = std::find_if(me.sums.begin(), me.sums.end(), [&](const Sums& s) { return s.at == d; });
    if (sums == me.sums.end()) sums = me.sums.insert(sums, {d, std::vector<float>(d, d + count), 0});
    sums->group = me.group;
    const Factors& f = factors[warp];
    for (unsigned e = 0; e < count; ++e) {
        const unsigned row = lane / 4 + e / 2 % 2 * 8, column = e / 4 * 8 + lane % 4 * 2 + e % 2;
        double sum = add ? sums->value[e] : 0;
        for (unsigned k = 0; k < K; ++k) sum += double(f.a[row * K + k]) * f.b[column * K + k];
        float& to = sums->value[e] = float(sum);
        if (fabs(double(to)) > fabs(sum)) to = nextafterf(to, 0);  // cut off, as multiply() has it
    }
    memset(d, POISON, count * sizeof(float));
}

inline void warpgroup_wait(unsigned groups_left) {
    Fiber& me = *current;
    auto done = [&](unsigned group) { return group + groups_left < me.group; };
    auto remove = [&](auto& list) {
        list.erase(std::remove_if(list.begin(), list.end(), [&](auto& one) { return done(one.group); }), list.end());
    };
    auto finish = [&](std::vector<Reading>& reading, const char* what) {
        for (auto& read : reading)
            if (done(read.group) && memcmp(read.at, read.bytes.data(), read.bytes.size()))
                fail("thread %u: %s changed while a warpgroup product read it", me.number, what);
        remove(reading);
    };
    if (meet(0xffffffffu, "wgmma.wait_group")) finish(factors[me.number / WARP].reading, "shared memory");
    finish(me.reading, "a register");
    for (auto& sums : me.sums)
        if (done(sums.group)) {
            for (size_t i = 0; i < sums.value.size() * sizeof(float); ++i)
                if (((unsigned char*)sums.at)[i] != POISON)
                    fail("thread %u wrote a sum while a warpgroup product added to it", me.number);
            memcpy(sums.at, sums.value.data(), sums.value.size() * sizeof(float));
        }
    remove(me.sums);
    me.fenced = false;
}

// ---- the tensor memory accelerator ---------------------------------------------------------------------------------
// A copy's target is poison until some thread comes to wait at its barrier, or until nobody can go on without it.

struct TensorMapMirror {  // 128 bytes that tensor_maps.py fills, in place of the driver's
    uint64_t address;
    int32_t rank, im2col, type;  // type: CUtensorMapDataType
    int32_t size[5];
    int64_t stride[4];           // bytes; of all axes but the innermost
    int32_t box[3];              // im2col: channels, pixels
    int8_t lower[3], upper[3], step[3];
};
static_assert(sizeof(TensorMapMirror) <= 128, "");

inline MBarrier& mbarrier(const void* barrier, const char* operation) {
    const unsigned offset = shared_offset(barrier, operation);
    if (!mbarriers.count(offset)) fail("%s: the barrier at %u was not initialised", operation, offset - SHARED_BASE);
    return mbarriers[offset];
}

inline void mbarrier_init(const void* barrier, int arrivals) {
    if (uintptr_t(barrier) % 8) fail("mbarrier.init: %p is not aligned", barrier);
    mbarriers[shared_offset(barrier, "mbarrier.init")] = {arrivals, arrivals, 0, 0, {}};
}

inline void mbarrier_arrive(const void* barrier, int bytes) {
    MBarrier& b = mbarrier(barrier, "mbarrier.arrive");
    if (!b.missing) fail("mbarrier.arrive: thread %u comes after all %d", current->number, b.arrivals);
    b.bytes += bytes, --b.missing;
    end_phase(b);
}

inline void mbarrier_wait(const void* barrier, int parity) {
    MBarrier& b = mbarrier(barrier, "mbarrier.try_wait");
    land(b);
    if (b.phase % 2 != unsigned(parity)) return;
    current->waits_at = shared_offset(barrier, "mbarrier.try_wait"), current->parity = parity;
    wait_as(AT_MBARRIER);
}

// One row of a box, `count` elements along the innermost axis from `at` on; zeros outside of the tensor.
inline std::vector<unsigned char> tensor_row(const TensorMapMirror& map, const int* at, int count) {
    const bool rounded = map.type == 11;
    const int size = map.type == 6 || map.type == 9 ? 2 : 4;
    std::vector<unsigned char> out(count * size, 0);
    uint64_t from = map.address;
    for (int axis = 1; axis < map.rank; ++axis) {
        if (at[axis] < 0 || at[axis] >= map.size[axis]) return out;
        from += at[axis] * map.stride[axis - 1];
    }
    for (int i = 0; i < count; ++i) {
        if (at[0] + i < 0 || at[0] + i >= map.size[0]) continue;
        memcpy(&out[i * size], (const unsigned char*)from + int64_t(at[0] + i) * size, size);
        unsigned bits;
        if (!rounded) continue;
        memcpy(&bits, &out[i * size], 4);
        bits = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fffe000 : (bits + 0x1000) & 0xffffe000;
        memcpy(&out[i * size], &bits, 4);
    }
    return out;
}

inline void bulk_copy(unsigned char* to, const void* barrier, const std::vector<std::vector<unsigned char>>& rows,
                      const char* operation) {
    MBarrier& b = mbarrier(barrier, operation);
    const unsigned start = shared_offset(to, operation), width = rows[0].size();
    if (start % 1024 || width != 128) fail("%s: rows of %u bytes to %u: only the 128-byte swizzle of whole atoms is "
                                           "modelled", operation, width, start - SHARED_BASE);
    std::vector<Arrival> copy;
    for (unsigned row = 0; row < rows.size(); ++row)
        for (unsigned piece = 0; piece < width; piece += 16) {
            unsigned address = start + row * width + piece;
            address ^= (address >> 7 & 7) << 4;
            if (address - SHARED_BASE + 16 > dynamic_shared.bytes) fail("%s writes outside shared memory", operation);
            unsigned char* target = dynamic_shared.data() + (address - SHARED_BASE);
            memset(target, POISON, 16);
            dynamic_shared.writer[(address - SHARED_BASE) / 16] = 0;
            copy.push_back({target, {rows[row].begin() + piece, rows[row].begin() + piece + 16}});
        }
    b.copies.push_back(copy);
}

inline void copy_tile(void* to, const TensorMapMirror& map, const void* barrier, const int (&at)[3]) {
    if (map.im2col || map.rank != 3) fail("a box of three axes from a map of %d, im2col %d", map.rank, map.im2col);
    std::vector<std::vector<unsigned char>> rows;
    for (int k = 0; k < map.box[2]; ++k)
        for (int j = 0; j < map.box[1]; ++j) {
            const int from[3] = {at[0], at[1] + j, at[2] + k};
            rows.push_back(tensor_row(map, from, map.box[0]));
        }
    bulk_copy((unsigned char*)to, barrier, rows, "cp.async.bulk.tensor.tile");
}

// at: (c, w, h, d, n), off: (w, h, d). Pixels run through the bounding box, w first, each moved by off.
inline void copy_im2col(void* to, const TensorMapMirror& map, const void* barrier, const int (&at)[5],
                        const int (&off)[3]) {
    if (!map.im2col || map.rank != 5) fail("pixels from a map of %d axes, im2col %d", map.rank, map.im2col);
    int pixel[4] = {at[1], at[2], at[3], at[4]};
    for (int axis = 0; axis < 3; ++axis) {
        const int last = map.size[axis + 1] - 1 + map.upper[axis];
        if (pixel[axis] < map.lower[axis] || pixel[axis] > last || (pixel[axis] - map.lower[axis]) % map.step[axis])
            fail("im2col: pixel %d on axis %d is none of the bounding box, %d to %d", pixel[axis], axis + 1,
                 map.lower[axis], last);
        if (off[axis] < 0 || off[axis] > 31) fail("im2col: an offset is %d, not 0 to 31", off[axis]);
    }
    std::vector<std::vector<unsigned char>> rows;
    for (int i = 0; i < map.box[1]; ++i) {
        const int from[5] = {at[0], pixel[0] + off[0], pixel[1] + off[1], pixel[2] + off[2], pixel[3]};
        rows.push_back(tensor_row(map, from, map.box[0]));
        int axis = 0;
        while (axis < 3) {
            pixel[axis] += map.step[axis];
            if (pixel[axis] <= map.size[axis + 1] - 1 + map.upper[axis]) break;
            pixel[axis] = map.lower[axis];
            ++axis;
        }
        if (axis == 3) ++pixel[3];
    }
    bulk_copy((unsigned char*)to, barrier, rows, "cp.async.bulk.tensor.im2col");
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

inline unsigned shared_address(const void* p) { return cuda_host::shared_offset(p, "shared_address"); }
inline void fence_proxy_async() {
    for (size_t piece : cuda_host::current->unfenced) {
        unsigned short& writer = cuda_host::dynamic_shared.writer[piece];
        if (writer == cuda_host::current->number + 1) writer = 0;
    }
    cuda_host::current->unfenced.clear();
}
inline void wgmma_fence() { cuda_host::current->fenced = true; }
inline void wgmma_commit() { ++cuda_host::current->group; }
template <int GROUPS> void wgmma_wait() { cuda_host::warpgroup_wait(GROUPS); }
template <int COUNT> void settle(float (&)[COUNT]) {}

#define CUDA_HOST_WGMMA(NAME, K, COLUMNS, VALUE)                                                        \
    template <int COUNT> void NAME(float (&d)[COUNT], unsigned long long a, unsigned long long b, int add) { \
        auto value = [](unsigned bits) { return VALUE; };                                               \
        cuda_host::warpgroup_multiply<K>(d, COUNT, nullptr, a, b, add, COLUMNS, value, #NAME);          \
    }
CUDA_HOST_WGMMA(wgmma_tf32, 8, false, __int_as_float(int(bits & 0xffffe000)))
CUDA_HOST_WGMMA(wgmma_f16, 16, false, half_to_float((unsigned short)bits))
CUDA_HOST_WGMMA(wgmma_bf16, 16, false, bfloat16_to_float((unsigned short)bits))
CUDA_HOST_WGMMA(wgmma_f16_columns, 16, true, half_to_float((unsigned short)bits))
CUDA_HOST_WGMMA(wgmma_bf16_columns, 16, true, bfloat16_to_float((unsigned short)bits))
template <int COUNT> void wgmma_tf32(float (&d)[COUNT], const unsigned (&a)[4], unsigned long long b, int add) {
    auto value = [](unsigned bits) { return __int_as_float(int(bits & 0xffffe000)); };
    cuda_host::warpgroup_multiply<8>(d, COUNT, a, 0, b, add, false, value, "wgmma_tf32");
}

template <typename Barrier> void barrier_init(Barrier* b, int arrivals) { cuda_host::mbarrier_init(b, arrivals); }
inline void barrier_fence() {}
template <typename Barrier> void barrier_arrive(Barrier* b) { cuda_host::mbarrier_arrive(b, 0); }
template <typename Barrier> void barrier_expect(Barrier* b, int bytes) { cuda_host::mbarrier_arrive(b, bytes); }
template <typename Barrier> void barrier_wait(Barrier* b, int parity) { cuda_host::mbarrier_wait(b, parity); }
template <typename Map, typename Barrier>
void copy_box(void* to, const Map& map, Barrier* b, int c0, int c1, int c2) {
    cuda_host::copy_tile(to, (const cuda_host::TensorMapMirror&)map, b, {c0, c1, c2});
}
template <typename Map, typename Barrier>
void copy_pixels(void* to, const Map& map, Barrier* b, int c, int w, int h, int d, int n, int off_w, int off_h,
                 int off_d) {
    cuda_host::copy_im2col(to, (const cuda_host::TensorMapMirror&)map, b, {c, w, h, d, n}, {off_w, off_h, off_d});
}
template <int COUNT> void fewer_registers() {}
template <int COUNT> void more_registers() {}

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
