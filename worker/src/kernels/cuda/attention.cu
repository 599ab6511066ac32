// The parts of attention between its matrix products, on tiles of scores: for each head, some queries against some keys.
//
// A query sees the keys of its row of `visible` [T, 2], the first one and the end; a window leaves the last `window`
// of them.

struct Tile {
    // The first query, the number of queries, the first key, the number of keys.
    unsigned query, queries, key, keys;
    // Query rows of all heads.
    unsigned rows;
    // Most keys that a query sees.
    unsigned window;
};

// The range of the tile's columns that the block's query sees.
__device__ __forceinline__ void seen(const unsigned* visible, Tile tile, unsigned* from,
                                     unsigned* to) {
    unsigned query = tile.query + blockIdx.x;
    unsigned end = visible[2 * query + 1];
    unsigned first = visible[2 * query];
    if (end - first > tile.window) {
        first = end - tile.window;
    }
    *from = first - tile.key;
    *to = end - tile.key;
}

// A block serves one query (x) of one head (y).
#define ATTENTION(T, type)                                                                     \
    /* Replaces scores with probabilities, and writes their log-sum-exp. */                    \
    extern "C" __global__ void softmax_##type(T* probabilities, const float* scores,          \
                                              float* log_sums, const unsigned* visible,        \
                                              Tile tile) {                                     \
        index start = ((index)blockIdx.y * tile.queries + blockIdx.x) * tile.keys;             \
        const float* s = scores + start;                                                       \
        T* p = probabilities + start;                                                          \
        unsigned from, to;                                                                     \
        seen(visible, tile, &from, &to);                                                       \
        float largest = -3.402823466e38f;                                                      \
        for (unsigned i = from + threadIdx.x; i < to; i += blockDim.x) {                       \
            largest = fmaxf(largest, s[i]);                                                    \
        }                                                                                      \
        largest = block_max(largest);                                                          \
        float sum = 0.0f;                                                                      \
        for (unsigned i = from + threadIdx.x; i < to; i += blockDim.x) {                       \
            sum += expf(s[i] - largest);                                                       \
        }                                                                                      \
        sum = block_sum(sum);                                                                  \
        float factor = 1.0f / sum;                                                             \
        for (unsigned i = threadIdx.x; i < tile.keys; i += blockDim.x) {                       \
            bool own = from <= i && i < to;                                                    \
            p[i] = rounded<T>(own ? expf(s[i] - largest) * factor : 0.0f);                     \
        }                                                                                      \
        if (threadIdx.x == 0) {                                                                \
            log_sums[(index)blockIdx.y * tile.rows + tile.query + blockIdx.x] =                \
                largest + logf(sum);                                                           \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    /* Replaces scores with probabilities P, and the gradients of P with those of the scores: */ \
    /* `P (dP - mean)`. */                                                                     \
    extern "C" __global__ void softmax_back_##type(                                            \
        T* probabilities, T* dscores, const float* scores, const float* dprobabilities,        \
        const float* log_sums, const float* means, const unsigned* visible, Tile tile) {       \
        index start = ((index)blockIdx.y * tile.queries + blockIdx.x) * tile.keys;             \
        index query = (index)blockIdx.y * tile.rows + tile.query + blockIdx.x;                 \
        unsigned from, to;                                                                     \
        seen(visible, tile, &from, &to);                                                       \
        for (unsigned i = threadIdx.x; i < tile.keys; i += blockDim.x) {                       \
            float p = 0.0f;                                                                    \
            float ds = 0.0f;                                                                   \
            if (from <= i && i < to) {                                                         \
                p = expf(scores[start + i] - log_sums[query]);                                 \
                ds = p * (dprobabilities[start + i] - means[query]);                           \
            }                                                                                  \
            probabilities[start + i] = rounded<T>(p);                                          \
            dscores[start + i] = rounded<T>(ds);                                               \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    /* The scalar product of each query's output, a part of row `y`, and its gradient. */      \
    extern "C" __global__ void output_means_##type(float* means, const T* y, const T* dy,     \
                                                   unsigned rows, unsigned head_dim) {         \
        const T* own = y + ((index)blockIdx.x * gridDim.y + blockIdx.y) * head_dim;            \
        index query = (index)blockIdx.y * rows + blockIdx.x;                                   \
        float sum = 0.0f;                                                                      \
        for (unsigned e = threadIdx.x; e < head_dim; e += blockDim.x) {                        \
            sum += widen(own[e]) * widen(dy[query * head_dim + e]);                            \
        }                                                                                      \
        sum = block_sum(sum);                                                                  \
        if (threadIdx.x == 0) {                                                                \
            means[query] = sum;                                                                \
        }                                                                                      \
    }
FOR_EACH_TYPE(ATTENTION)
