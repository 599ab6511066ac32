// Splits rows [T, H E] into heads [H, T, E] and merges them back, with rotation.

// The rotation of one row's position; `cos` is null for none.
struct Rotation {
    const float* cos;
    const float* sin;
    const unsigned* positions;
};

// An element of a rotated head: `sign` is -1 for the transpose.
template <class Read>
__device__ __forceinline__ float turned(Rotation rotation, unsigned row, unsigned e,
                                        unsigned head_dim, float scale, float sign, Read read) {
    if (rotation.cos == 0) {
        return read(e) * scale;
    }
    unsigned pairs = head_dim / 2;
    unsigned pair = e < pairs ? e : e - pairs;
    index at = (index)rotation.positions[row] * pairs + pair;
    float c = rotation.cos[at];
    float s = rotation.sin[at] * sign;
    float x1 = read(pair);
    float x2 = read(pair + pairs);
    return (e < pairs ? x1 * c - x2 * s : x2 * c + x1 * s) * scale;
}

template <class T>
struct OfRow {
    const T* x;
    __device__ __forceinline__ float operator()(unsigned e) const {
        return widen(x[e]);
    }
};

// The sum of `group` neighbouring heads, in order.
template <class T>
struct OfHeads {
    const T* x;
    unsigned group;
    index stride;
    __device__ __forceinline__ float operator()(unsigned e) const {
        float sum = 0.0f;
        for (unsigned g = 0; g < group; g++) {
            sum += widen(x[g * stride + e]);
        }
        return sum;
    }
};

#define HEADS(T, type)                                                                         \
    extern "C" __global__ void split_heads_##type(T* y, const T* x, Rotation rotation,        \
                                                  unsigned rows, unsigned heads,               \
                                                  unsigned head_dim, float scale) {            \
        EACH(i, (index)rows * heads * head_dim) {                                              \
            unsigned e = (unsigned)i % head_dim;                                               \
            unsigned row = (unsigned)i / head_dim % rows;                                      \
            unsigned head = (unsigned)i / head_dim / rows;                                     \
            OfRow<T> own = {x + ((index)row * heads + head) * head_dim};                       \
            y[i] = rounded<T>(turned(rotation, row, e, head_dim, scale, 1.0f, own));           \
        }                                                                                      \
    }                                                                                          \
                                                                                               \
    /* `heads` counts those of the rows, each the sum of `group` ones. */                      \
    extern "C" __global__ void merge_heads_##type(T* y, const T* x, Rotation rotation,        \
                                                  unsigned rows, unsigned heads,               \
                                                  unsigned head_dim, unsigned group,           \
                                                  float scale, int add) {                      \
        EACH(i, (index)rows * heads * head_dim) {                                              \
            unsigned e = (unsigned)i % head_dim;                                               \
            unsigned head = (unsigned)i / head_dim % heads;                                    \
            unsigned row = (unsigned)i / head_dim / heads;                                     \
            const T* first = x + ((index)head * group * rows + row) * head_dim;                \
            OfHeads<T> own = {first, group, (index)rows * head_dim};                           \
            put(&y[i], turned(rotation, row, e, head_dim, scale, -1.0f, own), add);            \
        }                                                                                      \
    }
FOR_EACH_TYPE(HEADS)
