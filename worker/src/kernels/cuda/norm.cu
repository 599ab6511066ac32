// RMSNorm: `y = w x r` with `r = 1 / sqrt(mean(x^2) + eps)`, for each group of `width` elements; a block serves a group.

template <class T>
__device__ __forceinline__ float inverse_rms(const T* x, index width, float eps) {
    float sum = 0.0f;
    for (index i = threadIdx.x; i < width; i += blockDim.x) {
        float a = widen(x[i]);
        sum += a * a;
    }
    return 1.0f / sqrtf(block_sum(sum) / (float)width + eps);
}

#define NORM(T, type)                                                                          \
    extern "C" __global__ void rms_norm_##type(T* y, const T* x, const T* w, index width,     \
                                               float eps) {                                    \
        index start = blockIdx.x * width;                                                      \
        float r = inverse_rms(x + start, width, eps);                                          \
        for (index i = threadIdx.x; i < width; i += blockDim.x) {                              \
            y[start + i] = rounded<T>(widen(w[i]) * (widen(x[start + i]) * r));                \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    /* `dx = r (w dy - x mean(w dy x) r^2)` */                                                 \
    extern "C" __global__ void rms_norm_back_##type(T* dx, const T* dy, const T* x,           \
                                                    const T* w, index width, float eps,        \
                                                    int add) {                                 \
        index start = blockIdx.x * width;                                                      \
        float r = inverse_rms(x + start, width, eps);                                          \
        float sum = 0.0f;                                                                      \
        for (index i = threadIdx.x; i < width; i += blockDim.x) {                              \
            sum += widen(w[i]) * widen(dy[start + i]) * widen(x[start + i]);                   \
        }                                                                                      \
        float c = block_sum(sum) / (float)width * r * r;                                       \
        for (index i = threadIdx.x; i < width; i += blockDim.x) {                              \
            float dn = widen(w[i]) * widen(dy[start + i]);                                     \
            put(&dx[start + i], r * (dn - widen(x[start + i]) * c), add);                      \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    extern "C" __global__ void inverse_rms_##type(float* r, const T* x, index width,          \
                                                  float eps) {                                 \
        float own = inverse_rms(x + blockIdx.x * width, width, eps);                           \
        if (threadIdx.x == 0) {                                                                \
            r[blockIdx.x] = own;                                                               \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    /* Sums of `dy x r` over blocks of groups, a row of `sums` for each; the blocks are those */ \
    /* of the grid's second dimension. */                                                      \
    extern "C" __global__ void norm_weight_blocks_##type(float* sums, const T* dy,            \
                                                         const T* x, const float* r,           \
                                                         index groups, index width,            \
                                                         index block) {                        \
        index c = (index)blockIdx.x * blockDim.x + threadIdx.x;                                \
        index end = min(groups, (blockIdx.y + 1) * block);                                     \
        if (c < width) {                                                                       \
            float sum = 0.0f;                                                                  \
            for (index group = blockIdx.y * block; group < end; group++) {                     \
                sum += widen(dy[group * width + c]) * (widen(x[group * width + c]) * r[group]); \
            }                                                                                  \
            sums[blockIdx.y * width + c] = sum;                                                \
        }                                                                                      \
    }
FOR_EACH_TYPE(NORM)
