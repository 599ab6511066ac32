// AdamW and the gradient norm, with equal bits on every GPU.

// The sum of squares of each chunk of `chunk` elements; a block serves a chunk.
extern "C" __global__ void sum_squares_of_chunks(double* sums, const float* x, index chunk,
                                                 index n) {
    index end = min(n, (blockIdx.x + 1) * chunk);
    double sum = 0.0;
    for (index i = blockIdx.x * chunk + threadIdx.x; i < end; i += blockDim.x) {
        sum += (double)x[i] * (double)x[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = sum;
    }
}

// The sum of `n` numbers, by one block.
extern "C" __global__ void sum_f64(double* y, const double* x, index n) {
    double sum = 0.0;
    for (index i = threadIdx.x; i < n; i += blockDim.x) {
        sum += x[i];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        *y = sum;
    }
}

// The fields of `AdamStep` in kernels/shapes.rs.
struct AdamStep {
    float gradient_scale, new1, beta2, new2, keep, rate, root, eps;
};

// `rounded_p` receives the new parameters as bf16, unless it is null.
extern "C" __global__ void adamw(float* p, float* m, float* v, bf16* rounded_p, const float* g,
                                 AdamStep step, index n) {
    EACH(i, n) {
        float gradient = g[i] * step.gradient_scale;
        float first = m[i] + (gradient - m[i]) * step.new1;
        float second = v[i] * step.beta2 + step.new2 * (gradient * gradient);
        m[i] = first;
        v[i] = second;
        float next = p[i] * step.keep - step.rate * (first / (sqrtf(second) * step.root + step.eps));
        p[i] = next;
        if (rounded_p != 0) {
            rounded_p[i] = rounded<bf16>(next);
        }
    }
}
