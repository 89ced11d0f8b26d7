// Between maps (N, C, pixels) and rows (N, pixels, taps C), in tiles that shared memory turns. REAL is float or double.

constexpr int SIDE = 32, TURNERS = 8;

// rows: of each pixel the maps there and at the pixels before it in its row, tap t looking taps - 1 - t to the left; zeros
// outside. One block of SIDE x TURNERS threads per image (x) and SIDE pixels (y) by SIDE maps (z).
extern "C" __global__ void to_rows(const REAL* __restrict__ maps, REAL* __restrict__ rows, int channels, int pixels, int width,
                                   int taps) {
    __shared__ REAL tile[SIDE][SIDE + 1];
    const int first_pixel = blockIdx.y * SIDE, first_channel = blockIdx.z * SIDE;
    maps += (long long)blockIdx.x * channels * pixels;
    rows += (long long)blockIdx.x * pixels * taps * channels;
    for (int tap = 0; tap < taps; tap++) {
        const int left = taps - 1 - tap, to = first_pixel + threadIdx.x;
        for (int i = threadIdx.y; i < SIDE; i += TURNERS) {
            const int c = first_channel + i;
            tile[i][threadIdx.x] = c < channels && to < pixels && to % width >= left ? maps[c * pixels + to - left] : 0;
        }
        __syncthreads();
        const int c = first_channel + threadIdx.x;
        for (int i = threadIdx.y; i < SIDE; i += TURNERS) {
            const int p = first_pixel + i;
            if (c < channels && p < pixels) rows[(p * taps + tap) * channels + c] = tile[threadIdx.x][i];
        }
        __syncthreads();
    }
}

// The transpose of to_rows, as a linear map: what the rows took from a pixel of a map is added up there.
extern "C" __global__ void from_rows(const REAL* __restrict__ rows, REAL* __restrict__ maps, int channels, int pixels,
                                     int width, int taps) {
    __shared__ REAL tile[SIDE][SIDE + 1];
    const int first_pixel = blockIdx.y * SIDE, first_channel = blockIdx.z * SIDE;
    maps += (long long)blockIdx.x * channels * pixels;
    rows += (long long)blockIdx.x * pixels * taps * channels;
    const int c = first_channel + threadIdx.x;
    for (int i = threadIdx.y; i < SIDE; i += TURNERS) {
        const int p = first_pixel + i;
        REAL sum = 0;
        for (int tap = 0; tap < taps; tap++) {
            const int right = taps - 1 - tap;
            if (c < channels && p < pixels && p % width + right < width) sum += rows[((p + right) * taps + tap) * channels + c];
        }
        tile[i][threadIdx.x] = sum;
    }
    __syncthreads();
    const int p = first_pixel + threadIdx.x;
    for (int i = threadIdx.y; i < SIDE; i += TURNERS)
        if (first_channel + i < channels && p < pixels) maps[(first_channel + i) * pixels + p] = tile[threadIdx.x][i];
}
