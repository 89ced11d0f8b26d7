// The threads of a block as fibers of one real thread, and the two places where they wait for one another: for the whole
// block, and for the lanes of a warp that a mask names. Included by cuda_shim.h, after CUDA's types.
#pragma once
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

namespace cuda_shim {

constexpr int LANES = 32;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t STACK = 256 << 10;
#else
constexpr size_t STACK = 64 << 10;
#endif

// ---- Switching ----

// A flow of control that can be left and entered again. Its first entry is ucontext's; from then on setjmp and longjmp do,
// which need no call into the kernel of the operating system. The address sanitizer is told of every change of stack, and
// keeps to swapcontext.
struct Flow {
    ucontext_t context;
    jmp_buf place;
    bool entered = true;
    const void* stack = nullptr;
    size_t size = 0;
};

inline void switch_flow(Flow& from, Flow& to) {
#ifdef __SANITIZE_ADDRESS__
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, to.stack, to.size);
    swapcontext(&from.context, &to.context);
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
    if (_setjmp(from.place)) return;
    if (to.entered) _longjmp(to.place, 1);
    to.entered = true;
    setcontext(&to.context);
#endif
}

// ---- Fibers ----

enum State { READY, IN_BLOCK_BARRIER, IN_WARP_FUNCTION, FINISHED };

struct Fiber {
    Flow flow;
    uint3 index;
    int lane;
    State state;
    const char* function;  // in which it waits
    unsigned mask;         // of the lanes that it waits for
    uint64_t given;        // to those who wait with it
    uint64_t seen[LANES];  // what the lanes of its warp gave
    std::unique_ptr<char[]> stack{new char[STACK]};
};

static std::vector<std::unique_ptr<Fiber>> fibers;  // kept between launches, for their stacks
static size_t threads;                              // of them, in this launch
static Fiber* current;
static Flow scheduler;
static std::string error;
static std::pair<void (*)(void*), void*> body;  // what every thread runs, and its argument
static int block_votes;

static void start_fiber() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack, &scheduler.size);
#endif
    body.first(body.second);
    current->state = FINISHED;
    switch_flow(current->flow, scheduler);
}

inline std::string name(const Fiber& fiber) {
    const auto triple = [](uint3 n) {
        return "(" + std::to_string(n.x) + ", " + std::to_string(n.y) + ", " + std::to_string(n.z) + ")";
    };
    return "thread " + triple(fiber.index) + " of block " + triple(blockIdx);
}

// Give up the launch; the fibers are left where they stand.
inline void fail(const std::string& message) {
    if (error.empty()) error = name(*current) + ": " + message;
    current->state = FINISHED;
    switch_flow(current->flow, scheduler);
}

inline void wait(State state, const char* function, unsigned mask, uint64_t given) {
    current->state = state;
    current->function = function;
    current->mask = mask;
    current->given = given;
    switch_flow(current->flow, scheduler);
}

inline bool together(const Fiber& a, const Fiber& b) {
    return a.state == b.state && a.mask == b.mask && !strcmp(a.function, b.function);
}

// ---- Scheduling ----

// Let the lanes go whose whole mask has come to the same function.
inline bool release_warp(std::unique_ptr<Fiber>* lanes, int count) {
    bool released = false;
    for (int l = 0; l < count; l++) {
        const unsigned mask = lanes[l]->mask;
        bool complete = lanes[l]->state == IN_WARP_FUNCTION;
        for (int k = 0; complete && k < LANES; k++)
            if (mask >> k & 1) complete = k < count && together(*lanes[k], *lanes[l]);
        if (!complete) continue;
        uint64_t given[LANES];
        for (int k = 0; k < count; k++) given[k] = lanes[k]->given;
        for (int k = 0; k < count; k++)
            if (mask >> k & 1) {
                memcpy(lanes[k]->seen, given, sizeof given);
                lanes[k]->state = READY;
            }
        released = true;
    }
    return released;
}

inline bool release_block() {
    int votes = 0;
    for (size_t t = 0; t < threads; t++) {
        if (fibers[t]->state != IN_BLOCK_BARRIER || !together(*fibers[t], *fibers[0])) return false;
        votes += fibers[t]->given;
    }
    block_votes = votes;
    for (size_t t = 0; t < threads; t++) fibers[t]->state = READY;
    return true;
}

inline void place_fibers() {
    while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
    for (unsigned t = 0; t < threads; t++) {
        Fiber& fiber = *fibers[t];
        fiber.index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
        fiber.lane = t % LANES;
        fiber.state = READY;
        fiber.flow.entered = false;
        fiber.flow.stack = fiber.stack.get();
        fiber.flow.size = STACK;
        getcontext(&fiber.flow.context);
        fiber.flow.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.flow.context.uc_stack.ss_size = STACK;
        fiber.flow.context.uc_link = nullptr;
        makecontext(&fiber.flow.context, start_fiber, 0);
    }
}

// Nobody can go on. That is the end if all have finished, and an error otherwise.
inline void judge_standstill() {
    const Fiber *waiting = nullptr, *other = nullptr;
    for (size_t t = 0; t < threads; t++) (fibers[t]->state == FINISHED ? other : waiting) = fibers[t].get();
    if (!waiting) return;
    for (size_t t = 0; t < threads && !other; t++)
        if (!together(*fibers[t], *waiting)) other = fibers[t].get();
    error = name(*waiting) + " waits in " + waiting->function + " for ever";
    if (other) error += ", " + name(*other) + (other->state == FINISHED ? " has ended" : std::string(" waits in ") + other->function);
}

// Shuffles, the same for a seed on every machine (Knuth's 64-bit linear congruential generator).
struct Random {
    uint64_t state;

    void shuffle(std::vector<unsigned>& order) {
        for (size_t n = order.size(); n > 1; n--) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            std::swap(order[n - 1], order[(state >> 33) % n]);
        }
    }
};

inline std::vector<unsigned> in_order(unsigned n) {
    std::vector<unsigned> order(n);
    for (unsigned k = 0; k < n; k++) order[k] = k;
    return order;
}

// Run blockIdx to its end or to an error. With a generator, fibers are resumed in an order that it draws each time.
inline void run_block(Random* random) {
    place_fibers();
    std::vector<unsigned> order = in_order(threads);
    for (bool released = true; released;) {
        if (random) random->shuffle(order);
        for (unsigned t : order) {
            if (fibers[t]->state != READY) continue;
            current = fibers[t].get();
            threadIdx = current->index;
            switch_flow(scheduler, current->flow);
            if (!error.empty()) return;
        }
        released = release_block();
        for (size_t w = 0; w < threads; w += LANES) released |= release_warp(&fibers[w], threads - w < LANES ? threads - w : LANES);
    }
    judge_standstill();
}

}  // namespace cuda_shim
