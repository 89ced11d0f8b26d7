// CUDA C++ on the CPU: enough of it to run a kernel's arithmetic where there is no GPU.
//
// `g++ -include cuda_shim.h` compiles a .cu file whose kernels use: threadIdx, blockIdx, blockDim, gridDim (all three
// dimensions); __shared__ arrays, static or dynamic (`extern __shared__ T name[]`, one name per file, which emulate.py
// passes as SHIM_DYNAMIC); __syncthreads; the warp functions below with a full mask, each warp's lanes together;
// atomicAdd and atomicCAS; the mathematical functions of <math.h>; min and max.
//
// The threads of a block are fibers on one thread of the operating system: each runs until it waits at a barrier or
// ends, in ascending or in descending order (`shim_descending`). A kernel that forgets a barrier gives different
// results in the two orders; one whose threads wait at different barriers is reported as a deadlock, not run forever.
// Blocks run one after the other. Nothing here says anything about speed.
//
// Kernels are started through `shim_call`, which emulate.py generates for each kernel that it finds in the source.

#pragma once

#include <math.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
// Block-scope `thread_local` is static, and `extern thread_local` a declaration: just what both uses need.
#define __shared__ thread_local

using std::max;
using std::min;

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace shim {

constexpr int kWarp = 32;
constexpr size_t kStack = 64 * 1024;

struct Barrier {
    int arrived = 0, members = 0;
    unsigned generation = 0;
};

struct Warp {
    Barrier barrier;
    uint64_t slots[kWarp];
};

struct Fiber {
    ucontext_t context;
    dim3 thread;
    int number = 0;
    bool done = false;
};

inline ucontext_t scheduler;
inline std::vector<Fiber> fibers;
inline std::unique_ptr<char[]> stacks;  // not zeroed: most of it is never touched
inline std::vector<Warp> warps;
inline Barrier block_barrier;
inline Fiber *current = nullptr;
inline dim3 grid, block_size, block_index;
inline bool progress = false;  // since the scheduler last looked
inline void (*body)(void **) = nullptr;
inline void **body_arguments = nullptr;

inline void open(Barrier &barrier) {
    barrier.arrived = 0;
    barrier.generation++;
    progress = true;
}

inline void wait(Barrier &barrier) {
    unsigned generation = barrier.generation;
    if (++barrier.arrived == barrier.members) {
        open(barrier);
    }
    while (barrier.generation == generation) swapcontext(&current->context, &scheduler);
}

inline void leave(Barrier &barrier) {  // a thread that has ended is waited for no more
    barrier.members--;
    if (barrier.members && barrier.arrived == barrier.members) open(barrier);
}

inline Warp &warp() { return warps[current->number / kWarp]; }

inline void run_fiber() {
    body(body_arguments);
    current->done = true;
    progress = true;
    leave(warp().barrier);
    leave(block_barrier);
    swapcontext(&current->context, &scheduler);
}

inline bool run_block(bool descending) {  // false: deadlock
    int count = block_size.x * block_size.y * block_size.z;
    if (int(fibers.size()) < count) stacks.reset(new char[count * kStack]);
    fibers.resize(max(count, int(fibers.size())));
    warps.assign((count + kWarp - 1) / kWarp, Warp());
    block_barrier = Barrier();
    block_barrier.members = count;
    for (int n = 0; n < count; n++) {
        Fiber &fiber = fibers[n];
        fiber.number = n;
        fiber.done = false;
        fiber.thread = {n % block_size.x, n / block_size.x % block_size.y, n / block_size.x / block_size.y};
        warps[n / kWarp].barrier.members++;
        getcontext(&fiber.context);
        fiber.context.uc_stack = {.ss_sp = &stacks[n * kStack], .ss_flags = 0, .ss_size = kStack};
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_fiber, 0);
    }
    for (int alive = count; alive;) {
        progress = false;
        for (int k = 0; k < count; k++) {
            current = &fibers[descending ? count - 1 - k : k];
            if (current->done) continue;
            swapcontext(&scheduler, &current->context);
            alive -= current->done;
        }
        if (!progress) return false;
    }
    return true;
}

template <typename T>
T exchange(T value, int source) {  // what lane `source` of this warp gave
    Warp &mine = warp();
    static_assert(sizeof(T) <= sizeof(uint64_t), "a lane exchanges at most 8 bytes");
    memcpy(&mine.slots[current->number % kWarp], &value, sizeof(T));
    wait(mine.barrier);
    if (source >= 0 && source < kWarp) memcpy(&value, &mine.slots[source], sizeof(T));
    wait(mine.barrier);
    return value;
}

template <typename T>
std::string kind() {
    if constexpr (std::is_pointer_v<T>) {
        return "*" + kind<std::remove_cv_t<std::remove_pointer_t<T>>>();
    } else {
        return (std::is_floating_point_v<T> ? "f" : std::is_signed_v<T> ? "i" : "u") + std::to_string(sizeof(T));
    }
}

template <typename... Arguments>
std::string kinds(void (*)(Arguments...)) {
    return ((kind<Arguments>() + " ") + ... + "");
}

template <typename... Arguments, size_t... I>
void apply(void (*kernel)(Arguments...), void **arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_cv_t<Arguments> *>(arguments[I])...);
}

template <typename... Arguments>
void apply(void (*kernel)(Arguments...), void **arguments) {
    apply(kernel, arguments, std::index_sequence_for<Arguments...>());
}

inline int launch(void (*kernel)(void **), const unsigned *sizes, void **arguments, bool descending) {
    grid = {sizes[0], sizes[1], sizes[2]};
    block_size = {sizes[3], sizes[4], sizes[5]};
    body = kernel;
    body_arguments = arguments;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                block_index = {x, y, z};
                if (!run_block(descending)) return 1;
            }
    return 0;
}

inline int lane() { return current->number % kWarp; }

}  // namespace shim

#define threadIdx (shim::current->thread)
#define blockIdx (shim::block_index)
#define blockDim (shim::block_size)
#define gridDim (shim::grid)
#define warpSize (shim::kWarp)

inline void __syncthreads() { shim::wait(shim::block_barrier); }
inline void __syncwarp(unsigned = ~0u) { shim::wait(shim::warp().barrier); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <typename T>
T __shfl_sync(unsigned, T value, int source) {
    return shim::exchange(value, source);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned offset) {
    return shim::exchange(value, shim::lane() + int(offset));
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned offset) {
    return shim::exchange(value, shim::lane() - int(offset));
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return shim::exchange(value, shim::lane() ^ mask);
}
inline unsigned __ballot_sync(unsigned, bool vote) {
    unsigned votes = 0;
    for (int lane = 0; lane < shim::kWarp; lane++) votes |= unsigned(shim::exchange(int(vote), lane) != 0) << lane;
    return votes;
}

template <typename T>
T atomicAdd(T *address, T value) {
    T old = *address;
    *address = old + value;
    return old;
}
template <typename T>
T atomicCAS(T *address, T expected, T value) {
    T old = *address;
    if (old == expected) *address = value;
    return old;
}
