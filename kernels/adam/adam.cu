// Adam, one thread per element: see reference.py. REAL is float or double.

extern "C" __global__ void adam_step(REAL* __restrict__ param, const REAL* __restrict__ grad,
                                     REAL* __restrict__ exp_avg, REAL* __restrict__ exp_avg_sq, long long size,
                                     REAL shrink, REAL penalty, REAL keep1, REAL take1, REAL keep2, REAL take2,
                                     REAL step_size, REAL root_scale, REAL eps) {
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += stride) {
        const REAL p = param[i];
        const REAL g = grad[i] + penalty * p;
        const REAL m = keep1 * exp_avg[i] + take1 * g;
        const REAL v = keep2 * exp_avg_sq[i] + take2 * g * g;
        exp_avg[i] = m;
        exp_avg_sq[i] = v;
        param[i] = shrink * p - step_size * m / (sqrt(v) * root_scale + eps);
    }
}
