// The gates of an LSTM unit on the GPU. REAL is float or double.

// The quotient is one step from exactly rounded: exact, it would take as long as the exponential.
__device__ float reciprocal(float x) { return __fdividef(1.0f, x); }
__device__ double reciprocal(double x) { return 1 / x; }
__device__ REAL sigmoid(REAL z) { return reciprocal(1 + exp(-z)); }

// gates: from pre-activations to i, f, g, o; and the unit's states after the step.
__device__ void activate(REAL (&gates)[4], REAL before, REAL& after, REAL& hidden) {
    const REAL i = sigmoid(gates[0]), f = sigmoid(gates[1]), g = tanh(gates[2]), o = sigmoid(gates[3]);
    gates[0] = i;
    gates[1] = f;
    gates[2] = g;
    gates[3] = o;
    after = f * before + i * g;
    hidden = o * tanh(after);
}

// From the gradients of the states to those of the pre-activations, and, returned, of the cell state before.
__device__ REAL differentiate(const REAL (&gates)[4], REAL before, REAL after, REAL g_hidden, REAL g_after, REAL (&g_gates)[4]) {
    const REAL i = gates[0], f = gates[1], g = gates[2], o = gates[3];
    const REAL t = tanh(after);
    const REAL g_c = g_after + g_hidden * o * (1 - t * t);
    g_gates[0] = g_c * g * i * (1 - i);
    g_gates[1] = g_c * before * f * (1 - f);
    g_gates[2] = g_c * i * (1 - g * g);
    g_gates[3] = g_hidden * t * o * (1 - o);
    return g_c * f;
}
