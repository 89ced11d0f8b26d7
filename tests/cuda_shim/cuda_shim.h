// CUDA C++ on a CPU, for tests: what a .cu file takes for granted, so that g++ compiles it and a test can launch it.
//
// The blocks of a grid run in turn. The threads of a block are fibers (fibers.h) that yield where CUDA's wait: at
// __syncthreads, and at the warp functions with their masks. So results repeat; and since only the order in which fibers are
// resumed decides what they see of one another, a missing barrier shows as results that change with the seed of that order.
// Other mistakes that a GPU lets pass are errors here, one line each: a barrier that some threads leave out, lanes named in a
// mask that do not come, a shuffle from a lane that is not in it, arguments that do not match the kernel's parameters, and
// sizes beyond a device's limits. Shared memory starts as NaN in every block.
//
// Another kernel needs nothing but its .cu and cuda.py: see __init__.py. Of CUDA's own there are the index variables, dim3
// and the vector types, static and dynamic __shared__ memory (`extern __shared__ T name[];` inside a function), __constant__,
// __syncthreads and its _count, _and, _or, __syncwarp, shuffles, votes, atomics, __ldg, bit functions, and the mathematical
// functions that are not in math.h but in use here; add what a new kernel needs. There are no inline PTX, no tensor cores and
// no cooperative groups, and blocks that wait for one another (through a counter in global memory) never end. CUDA_ON_CPU is
// defined, for a kernel that must know.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

// ---- CUDA's types ----

#define SHIM_VECTOR(T, name)                                                   \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; };                         \
    struct name##3 { T x, y, z; };                                             \
    struct alignas(16) name##4 { T x, y, z, w; };                              \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                 \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }         \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SHIM_VECTOR(float, float)
SHIM_VECTOR(double, double)
SHIM_VECTOR(int, int)
SHIM_VECTOR(unsigned, uint)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

#include "fibers.h"  // the index variables, too

// ---- Launching ----

namespace cuda_shim {

static std::unique_ptr<char[]> dynamic_shared;

// 'f4' for float, 'i8' for long long, 'Pf4' for float*, and so on: kind and bytes, as NumPy writes them.
template <class T>
std::string code() {
    if constexpr (std::is_pointer_v<T>) return "P" + code<std::remove_cv_t<std::remove_pointer_t<T>>>();
    const char* kind = std::is_same_v<T, bool>         ? "b"
                       : std::is_floating_point_v<T> ? "f"
                       : !std::is_integral_v<T>      ? "V"
                       : std::is_signed_v<T>         ? "i"
                                                     : "u";
    return kind + std::to_string(sizeof(T));
}

template <class... A>
const char* signature(void (*)(A...)) {
    static const std::string text = ((code<A>() + " ") + ... + "");
    return text.c_str();
}

#ifdef __SANITIZE_ADDRESS__
inline void spoil_static_shared() {}
#else
extern "C" __attribute__((weak)) char __start_cuda_shared[], __stop_cuda_shared[];
inline void spoil_static_shared() { memset(__start_cuda_shared, 0xff, __stop_cuda_shared - __start_cuda_shared); }
#endif

// Run `body` in every thread of a grid. Returns null, or what went wrong. Seed 0 resumes blocks and threads in the order of
// their indices, any other one in an order drawn from it.
static const char* run_grid(const unsigned* grid, const unsigned* block, size_t shared, unsigned seed) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    threads = size_t(block[0]) * block[1] * block[2];
    error.clear();
    Random random{seed};
    std::vector<unsigned> order = in_order(grid[0] * grid[1] * grid[2]);
    if (seed) random.shuffle(order);
    for (unsigned k : order) {
        blockIdx = {k % grid[0], k / grid[0] % grid[1], k / grid[0] / grid[1]};
        spoil_static_shared();
        dynamic_shared.reset(new char[shared]);
        memset(dynamic_shared.get(), 0xff, shared);
        run_block(seed ? &random : nullptr);
        if (!error.empty()) return error.c_str();
    }
    return nullptr;
}

template <class... A, size_t... N>
void apply(void (*kernel)(A...), void** arguments, std::index_sequence<N...>) {
    kernel(*static_cast<A*>(arguments[N])...);
}

// Run a kernel; `arguments` points to the value of each parameter.
template <class... A>
const char* launch(void (*kernel)(A...), const unsigned* grid, const unsigned* block, size_t shared, void** arguments,
                   unsigned seed) {
    auto call = [&] { apply(kernel, arguments, std::index_sequence_for<A...>()); };
    body = {[](void* argument) { (*static_cast<decltype(call)*>(argument))(); }, &call};
    return run_grid(grid, block, shared, seed);
}

// ---- Warps ----

inline void meet(const char* function, unsigned mask, uint64_t given = 0) {
    if (!(mask >> current->lane & 1)) fail(std::string(function) + ": the calling lane is not in its mask");
    wait(IN_WARP_FUNCTION, function, mask, given);
}

// The value of lane `source`, or the caller's own where that lies outside its segment of `width` lanes.
template <class T>
T shuffle(const char* function, unsigned mask, T value, int source, int width) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    meet(function, mask, bits);
    if ((source & ~(width - 1)) != (current->lane & ~(width - 1))) return value;
    if (!(mask >> source & 1)) fail(std::string(function) + ": lane " + std::to_string(source) + " is not in the mask");
    memcpy(&value, &current->seen[source], sizeof value);
    return value;
}

inline unsigned ballot(const char* function, unsigned mask, bool vote) {
    meet(function, mask, vote);
    unsigned result = 0;
    for (int l = 0; l < LANES; l++)
        if (mask >> l & 1) result |= unsigned(current->seen[l]) << l;
    return result;
}

inline int block_vote(const char* function, bool vote) {
    wait(IN_BLOCK_BARRIER, function, 0, vote);
    return block_votes;
}

template <class T>
struct Identity {
    using type = T;
};
template <class T>
using Value = typename Identity<T>::type;

template <class T, class F>
T atomic(T* address, F change) {
    const T old = *address;
    *address = change(old);
    return old;
}

}  // namespace cuda_shim

// ---- CUDA's functions ----

constexpr int warpSize = 32;

inline void __syncthreads() { cuda_shim::block_vote("__syncthreads", false); }
inline int __syncthreads_count(int vote) { return cuda_shim::block_vote("__syncthreads_count", vote); }
inline int __syncthreads_or(int vote) { return cuda_shim::block_vote("__syncthreads_or", vote) > 0; }
inline int __syncthreads_and(int vote) { return cuda_shim::block_vote("__syncthreads_and", !vote) == 0; }
inline void __syncwarp(unsigned mask = ~0u) { cuda_shim::meet("__syncwarp", mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const int segment = cuda_shim::current->lane & ~(width - 1);
    return cuda_shim::shuffle("__shfl_sync", mask, value, segment + (source & (width - 1)), width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    return cuda_shim::shuffle("__shfl_xor_sync", mask, value, cuda_shim::current->lane ^ bits, width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return cuda_shim::shuffle("__shfl_up_sync", mask, value, cuda_shim::current->lane - int(delta), width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return cuda_shim::shuffle("__shfl_down_sync", mask, value, cuda_shim::current->lane + int(delta), width);
}
inline unsigned __ballot_sync(unsigned mask, int vote) { return cuda_shim::ballot("__ballot_sync", mask, vote); }
inline int __any_sync(unsigned mask, int vote) { return cuda_shim::ballot("__any_sync", mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return cuda_shim::ballot("__all_sync", mask, vote) == mask; }

#define SHIM_ATOMIC(name, value)                                \
    template <class T>                                          \
    T name(T* address, cuda_shim::Value<T> operand) {       \
        return cuda_shim::atomic(address, [=](T old) -> T { return value; }); \
    }
SHIM_ATOMIC(atomicAdd, old + operand)
SHIM_ATOMIC(atomicSub, old - operand)
SHIM_ATOMIC(atomicMax, old > operand ? old : operand)
SHIM_ATOMIC(atomicMin, old < operand ? old : operand)
SHIM_ATOMIC(atomicExch, ((void)old, operand))
template <class T>
T atomicCAS(T* address, cuda_shim::Value<T> expected, cuda_shim::Value<T> operand) {
    return cuda_shim::atomic(address, [=](T old) { return old == expected ? operand : old; });
}
template <class T>
T __ldg(const T* address) {
    return *address;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }

#define SHIM_EXTREME(name, floating, x_first)                               \
    template <class A, class B>                                             \
    constexpr auto name(A a, B b) {                                         \
        using T = std::common_type_t<A, B>;                                 \
        const T x = a, y = b;                                               \
        if constexpr (std::is_floating_point_v<T>) return T(floating(x, y)); \
        else return x_first ? x : y;                                        \
    }
SHIM_EXTREME(max, fmax, x > y)
SHIM_EXTREME(min, fmin, x < y)

// ---- CUDA's words: last, since the standard library's headers use some of them ----

#define CUDA_ON_CPU 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static  // with guards around it
#else
#define __shared__ static __attribute__((section("cuda_shared")))
#endif

#define SHIM_KERNEL(kernel)                                                                                          \
    extern "C" const char* shim_signature_##kernel() { return cuda_shim::signature(kernel); }                        \
    extern "C" const char* shim_launch_##kernel(const unsigned* grid, const unsigned* block, size_t shared,          \
                                                void** arguments, unsigned seed) {                                   \
        return cuda_shim::launch(kernel, grid, block, shared, arguments, seed);                                      \
    }
