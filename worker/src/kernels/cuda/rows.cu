// Kernels on whole rows of a matrix.

#define ROWS(T, type)                                                                          \
    /* Sets every row of `y` to `row`. */                                                      \
    extern "C" __global__ void repeat_row_##type(T* y, const T* row, index cols, index n) {   \
        EACH(i, n) {                                                                           \
            y[i] = row[i % cols];                                                              \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    /* Sets row `i` of `y` to row `rows[i]` of `x`; a block copies a row. */                   \
    extern "C" __global__ void gather_rows_##type(T* y, const T* x, const unsigned* rows,     \
                                                  index width) {                               \
        const T* from = x + rows[blockIdx.x] * width;                                          \
        T* to = y + blockIdx.x * width;                                                        \
        for (index c = threadIdx.x; c < width; c += blockDim.x) {                              \
            to[c] = from[c];                                                                   \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    /* Sums of blocks of rows, a row of `sums` for each; the blocks are those of the grid's */ \
    /* second dimension. */                                                                    \
    extern "C" __global__ void sum_row_blocks_##type(float* sums, const T* x, index rows,     \
                                                     index cols, index block) {                \
        index c = (index)blockIdx.x * blockDim.x + threadIdx.x;                                \
        index end = min(rows, (blockIdx.y + 1) * block);                                       \
        if (c < cols) {                                                                        \
            float sum = 0.0f;                                                                  \
            for (index row = blockIdx.y * block; row < end; row++) {                           \
                sum += widen(x[row * cols + c]);                                               \
            }                                                                                  \
            sums[blockIdx.y * cols + c] = sum;                                                 \
        }                                                                                      \
    }
FOR_EACH_TYPE(ROWS)

// Adds the rows of `sums` to `y`, in order.
extern "C" __global__ void add_rows_in_order(float* y, const float* sums, index rows, index cols) {
    EACH(c, cols) {
        float sum = y[c];
        for (index row = 0; row < rows; row++) {
            sum += sums[row * cols + c];
        }
        y[c] = sum;
    }
}

// Adds row `i` of `x` to row `rows[i] - first` of `y`, for every `i` in order. Block `i` serves its row of `y` if no
// earlier `i` has the same row, and then adds all rows of `x` that belong there.
template <class Y, class X>
__device__ __forceinline__ void scatter_add_rows_of(Y* y, const X* x, const unsigned* rows,
                                                    index count, index width, index first,
                                                    index present) {
    __shared__ unsigned hits[32];
    index own = blockIdx.x;
    index row = (index)rows[own] - first;
    if (row < 0 || row >= present) {
        return;
    }
    unsigned earlier = 0;
    for (index i = threadIdx.x; i < own; i += blockDim.x) {
        earlier |= rows[i] == rows[own];
    }
    if (block_sum((float)earlier) > 0.0f) {
        return;
    }
    // The rows that belong here are found by all threads together, a group of `blockDim.x` at a time.
    for (index start = own; start < count; start += blockDim.x) {
        index i = start + threadIdx.x;
        unsigned here = __ballot_sync(0xffffffffu, i < count && rows[i] == rows[own]);
        __syncthreads();
        if (threadIdx.x % 32 == 0) {
            hits[threadIdx.x / 32] = here;
        }
        __syncthreads();
        for (unsigned warp = 0; warp < blockDim.x / 32; warp++) {
            for (unsigned left = hits[warp], lane = 0; left != 0; left >>= 1, lane++) {
                if (left & 1u) {
                    const X* from = x + (start + warp * 32 + lane) * width;
                    for (index c = threadIdx.x; c < width; c += blockDim.x) {
                        put(&y[row * width + c], widen(from[c]), 1);
                    }
                }
            }
        }
    }
}

#define SCATTER(Y, to, X, from)                                                                \
    extern "C" __global__ void scatter_add_rows_##to##_##from(                                 \
        Y* y, const X* x, const unsigned* rows, index count, index width, index first,         \
        index present) {                                                                       \
        scatter_add_rows_of(y, x, rows, count, width, first, present);                         \
    }
SCATTER(float, f32, float, f32)
SCATTER(float, f32, bf16, bf16)
SCATTER(bf16, bf16, bf16, bf16)
