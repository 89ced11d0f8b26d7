"""What the shim gives to a kernel, and which mistakes of one it catches."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_shim import cuda_on_cpu, needs_compiler, sanitized

pytestmark = needs_compiler

KERNELS = r"""
__constant__ int three = 3;

template <class T>
__device__ T block_sum(T value) {
    __shared__ T sums[32];
    for (int bit = 1; bit < warpSize; bit *= 2) value += __shfl_xor_sync(0xffffffffu, value, bit);
    if (threadIdx.x % warpSize == 0) sums[threadIdx.x / warpSize] = value;
    __syncthreads();
    value = 0;
    for (int w = 0; w < blockDim.x / warpSize; w++) value += sums[w];
    return value;
}
extern "C" __global__ void __launch_bounds__(64) sum_blocks(const REAL* __restrict__ x, REAL* out, double* all) {
    const REAL sum = block_sum(x[blockIdx.x * blockDim.x + threadIdx.x]);
    if (threadIdx.x == 0) {
        out[blockIdx.x] = sum;
        atomicAdd(all, double(sum));
    }
}
extern "C" __global__ void indices(uint3* out, int* in_warp) {
    const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const int threads = blockDim.x * blockDim.y * blockDim.z;
    out[block * threads + thread] = make_uint3(blockIdx.x + threadIdx.x, threadIdx.y, threadIdx.z);
    in_warp[block * threads + thread] = thread % warpSize;
}
extern "C" __global__ void warp(int* out) {
    const int lane = threadIdx.x;
    int* const mine = out + lane;
    mine[0] = __shfl_sync(~0u, lane, 5);
    mine[32] = __shfl_up_sync(~0u, lane, 1);
    mine[64] = __shfl_down_sync(~0u, lane, 2, 8);
    mine[96] = __ballot_sync(~0u, lane % three == 0);
    mine[128] = __any_sync(~0u, lane == 40) + 2 * __all_sync(~0u, lane < 32);
    if (lane < 16) mine[160] = __shfl_sync(0xffffu, lane, lane + 1, 4);
    mine[192] = __syncthreads_count(lane > 20);
}
extern "C" __global__ void reverse(REAL* x, int wait) {
    extern __shared__ REAL copy[];
    copy[threadIdx.x] = x[threadIdx.x];
    if (wait) __syncthreads();
    x[threadIdx.x] = copy[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void unset(REAL* x) {
    __shared__ REAL never[32], once[1];
    if (blockIdx.x == 0) once[0] = 1;
    x[blockIdx.x] = never[3] + once[0];
}
extern "C" __global__ void half_at_barrier(int early) {
    if (threadIdx.x < 40) __syncthreads();
    else if (!early) __syncwarp();
}
extern "C" __global__ void two_barriers() {
    if (threadIdx.x < 32) __syncthreads();
    else __syncthreads_or(1);
}
extern "C" __global__ void absent_lane() {
    if (threadIdx.x < 31) __shfl_sync(~0u, 1, 0);
}
extern "C" __global__ void from_outside() {
    if (threadIdx.x < 8) __shfl_sync(0xffu, 1, 9);
}
extern "C" __global__ void not_in_mask() { __ballot_sync(1u, 1); }
extern "C" __global__ void past_the_end(REAL* x, int n) { x[n] = 1; }
extern "C" __global__ void past_shared(int n) {
    __shared__ REAL little[8];
    little[n] = 1;
}
extern "C" __global__ void past_dynamic(int n) {
    extern __shared__ REAL little[];
    little[n] = 1;
}
extern "C" __global__ void shifted(int n) {
    if (1 << n == 12345) __syncwarp();
}
"""


def launch(name, grid, block, *arguments, real="float", seed=1, **options):
    with cuda_on_cpu(seed=seed) as cupy:
        kernel = cupy.RawModule(code=KERNELS, options=(f"-DREAL={real}", "--use_fast_math")).get_function(name)
        kernel(grid, block, arguments, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shared_memory_shuffles_and_atomics(dtype):
    x = np.arange(5 * 64).reshape(5, 64).astype(dtype)
    out, total = np.empty(5, dtype), np.zeros(1)
    launch("sum_blocks", (5,), (64,), x, out, total, real={4: "float", 8: "double"}[x.itemsize])
    np.testing.assert_array_equal(out, x.sum(axis=1))
    assert total[0] == x.sum()


def test_indices_in_three_dimensions():
    grid, block = (2, 3, 4), (5, 2, 7)
    out, in_warp = np.zeros((4, 3, 2, 7, 2, 5, 3), np.uint32), np.zeros((24, 70), np.int32)
    launch("indices", grid, block, out.reshape(-1).view([("x", "u4"), ("y", "u4"), ("z", "u4")]), in_warp)
    place = dict(zip(("bz", "by", "bx", "tz", "ty", "tx"), np.indices(out.shape[:-1])))
    np.testing.assert_array_equal(out, np.stack([place["bx"] + place["tx"], place["ty"], place["tz"]], axis=-1))
    np.testing.assert_array_equal(in_warp, np.tile(np.arange(70) % 32, (24, 1)))


def test_warp_functions():
    out = np.full((7, 32), -1, np.int32)
    launch("warp", (1,), (32,), out)
    lane = np.arange(32)
    np.testing.assert_array_equal(out[0], 5)
    np.testing.assert_array_equal(out[1], np.maximum(lane - 1, 0))
    np.testing.assert_array_equal(out[2], np.where(lane % 8 < 6, lane + 2, lane))
    assert set(out[3].view(np.uint32)) == {sum(1 << k for k in range(0, 32, 3))}
    np.testing.assert_array_equal(out[4], 2)
    np.testing.assert_array_equal(out[5, :16], lane[:16] // 4 * 4 + (lane[:16] + 1) % 4)
    np.testing.assert_array_equal(out[6], 11)


def test_dynamic_shared_memory_and_its_barrier():
    x = np.arange(96.0)
    launch("reverse", (1,), (96,), x, np.int32(True), real="double", shared_mem=96 * 8)
    np.testing.assert_array_equal(x, np.arange(96.0)[::-1])
    with pytest.raises(RuntimeError, match="argument 0 depends on the order in which threads run"):
        launch("reverse", (1,), (96,), x, np.int32(False), real="double", shared_mem=96 * 8)


def test_shared_memory_starts_as_nan_in_every_block():
    x = np.zeros(2, np.float32)
    launch("unset", (2,), (1,), x)
    assert np.isnan(x).all()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("half_at_barrier", (np.int32(1),), r"waits in __syncthreads for ever, thread \(\d+, 0, 0\) of block .* has ended"),
        ("half_at_barrier", (np.int32(0),), "for ever"),
        ("two_barriers", (), "waits in __syncthreads.* for ever, .* waits in __syncthreads"),
        ("absent_lane", (), r"waits in __shfl_sync for ever, thread \(\d+, 0, 0\) .* has ended"),
        ("from_outside", (), "__shfl_sync: lane 9 is not in the mask"),
        ("not_in_mask", (), "__ballot_sync: the calling lane is not in its mask"),
    ],
)
def test_threads_that_do_not_meet_are_reported(name, arguments, message):
    with pytest.raises(RuntimeError, match=message):
        launch(name, (1,), (64,), *arguments)


def test_arguments_and_sizes_are_checked():
    x, n = np.zeros(3, np.float32), np.int32(0)
    with pytest.raises(TypeError, match=r"past_the_end takes \(Pf4 i4\), got \(Pf8 i4\)"):
        launch("past_the_end", (1,), (1,), x.astype(float), n)
    with pytest.raises(TypeError, match=r"got \(Pf4 i8\)"):
        launch("past_the_end", (1,), (1,), x, 0)
    with pytest.raises(TypeError, match=r"got \(Pf4\)"):
        launch("past_the_end", (1,), (1,), x)
    with pytest.raises(ValueError, match="argument 0 is not contiguous"):
        launch("past_the_end", (1,), (1,), x[::2], n)
    with pytest.raises(ValueError, match="grid"):
        launch("past_the_end", (0,), (1,), x, n)
    with pytest.raises(ValueError, match="more than 1024 threads"):
        launch("past_the_end", (1,), (64, 32), x, n)
    with pytest.raises(ValueError, match="49153 bytes of shared memory"):
        launch("past_dynamic", (1,), (1,), n, shared_mem=49153)


def test_writes_in_front_of_and_behind_an_array_are_seen():
    for n in (-1, 3):
        with pytest.raises(RuntimeError, match="something was written outside of argument 0"):
            launch("past_the_end", (1,), (1,), np.zeros(3, np.float32), np.int32(n))


def test_a_source_that_does_not_compile():
    with cuda_on_cpu() as cupy, pytest.raises(cupy.cuda.compiler.CompileException, match="nonsense"):
        cupy.RawModule(code='extern "C" __global__ void f() { nonsense(); }').compile()


@pytest.mark.parametrize(
    ("call", "right", "wrong", "message"),
    [
        ("'past_the_end', (1,), (1,), np.zeros(3, np.float32), np.int32({})", 2, 3, "heap-buffer-overflow"),
        ("'past_shared', (1,), (1,), np.int32({})", 7, 8, "out of bounds|global-buffer-overflow"),
        ("'past_dynamic', (1,), (1,), np.int32({}), shared_mem=16", 3, 4, "heap-buffer-overflow"),
        ("'shifted', (1,), (32,), np.int32({})", 30, 40, "shift exponent 40 is too large"),
    ],
    ids=["array", "shared memory", "dynamic shared memory", "shift"],
)
def test_sanitizers_see_what_is_out_of_bounds_and_undefined(call, right, wrong, message, tmp_path):
    environment = sanitized()
    if environment is None:
        pytest.skip("the compiler has no address sanitizer")
    environment["TMPDIR"] = str(tmp_path)  # a process that is stopped leaves its files
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    launches = [f"test_cuda_shim.launch({call.format(n)})" for n in (right, wrong)]
    code = f"import test_cuda_shim, numpy as np; {launches[0]}; print('passed', flush=True); {launches[1]}"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout == "passed\n", run.stderr
    assert run.returncode != 0
    assert re.search(message, run.stderr), run.stderr
