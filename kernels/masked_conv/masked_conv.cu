// A network of masked convolutions at one pixel; REAL is float or double. Whole maps are conv2d.cu's: terms are a list there.
//
// A block of threads computes one image, all layers in one launch; a thread sums an output channel's terms one by one, in the
// order of conv2d.cu and fused as there, so that the bits are the same. cache.py says where all lies, and what the columns of
// the table are.

struct Layer {
    long long input, output, channels, outs, terms, ring, line, pixel, panel, offset, bias, rectified, skip;
};

extern "C" __global__ void step(const long long* __restrict__ table, const long long* __restrict__ offsets,
                                const REAL* __restrict__ panels, const REAL* __restrict__ biases, REAL* caches, long long size,
                                int layers, int row, int column) {
    REAL* cache = caches + blockIdx.x * size;
    for (int index = 0; index < layers; ++index) {
        const Layer layer = reinterpret_cast<const Layer*>(table)[index];
        if (index) {
            const REAL* source = cache + reinterpret_cast<const Layer*>(table)[index - 1].output;
            REAL* target = cache + layer.input + row % layer.ring * layer.line + (column + layer.ring - 1) * layer.pixel;
            for (int c = threadIdx.x; c < layer.channels; c += blockDim.x)
                target[c] = layer.rectified && source[c] < 0 ? REAL(0) : source[c];
            __syncthreads();
        }
        const REAL *seen = cache + layer.input + column * layer.pixel, *weights = panels + layer.panel;
        const long long* offset = offsets + layer.offset + row % layer.ring * layer.terms;
        for (int o = threadIdx.x; o < layer.outs; o += blockDim.x) {
            REAL sum = 0;
            for (int k = 0; k < layer.terms; ++k) sum = fma(weights[k * layer.outs + o], seen[offset[k]], sum);
            sum += biases[layer.bias + o];
            cache[layer.output + o] = layer.skip < 0 ? sum : sum + cache[layer.skip + o];
        }
        __syncthreads();
    }
}
