// What all kernels share: the types of elements, loops and sums.
//
// The kernels are compiled at start, by NVRTC, for the GPU at hand, as one program. They include no header of the CUDA
// toolkit. Sums have a fixed order: no float is added atomically, and nothing is contracted to a fused multiply-add
// (`--fmad=false`), so that GPUs of one kind compute equal bits.
//
// Names of kernels end in the type of activations. Shape letters are those of `Kernels` in kernels/mod.rs.

struct bf16 {
    unsigned short bits;
};

typedef long long index;

__device__ __forceinline__ float widen(float x) {
    return x;
}

__device__ __forceinline__ float widen(bf16 x) {
    return __uint_as_float((unsigned)x.bits << 16);
}

// Rounds to the nearest number of type T, ties to even.
template <class T>
__device__ __forceinline__ T rounded(float x);

template <>
__device__ __forceinline__ float rounded<float>(float x) {
    return x;
}

template <>
__device__ __forceinline__ bf16 rounded<bf16>(float x) {
    unsigned bits = __float_as_uint(x);
    bf16 y;
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        // Rounding could turn a NaN into an infinity.
        y.bits = (unsigned short)((bits >> 16) | 0x40u);
    } else {
        y.bits = (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
    return y;
}

// Writes `x`, or adds it to the contents.
template <class T>
__device__ __forceinline__ void put(T* y, float x, int add) {
    *y = rounded<T>(add ? widen(*y) + x : x);
}

// Runs the statement for every index below `n`, spread over all threads of the grid.
#define EACH(i, n)                                                          \
    for (index i = (index)blockIdx.x * blockDim.x + threadIdx.x; i < (n); \
         i += (index)gridDim.x * blockDim.x)

struct Plus {
    template <class T>
    static __device__ __forceinline__ T of(T a, T b) {
        return a + b;
    }
};

struct Larger {
    static __device__ __forceinline__ float of(float a, float b) {
        return fmaxf(a, b);
    }
};

// Combines the values of a block's threads; all get the same result. A block has 1 to 32 full warps.
template <class Combine, class T>
__device__ __forceinline__ T combined(T x, T none) {
    __shared__ T warps[32];
    for (int offset = 16; offset > 0; offset /= 2) {
        x = Combine::of(x, __shfl_xor_sync(0xffffffffu, x, offset));
    }
    // The result of the previous call has been read by all threads.
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        warps[threadIdx.x / 32] = x;
    }
    __syncthreads();
    x = threadIdx.x % 32 < blockDim.x / 32 ? warps[threadIdx.x % 32] : none;
    for (int offset = 16; offset > 0; offset /= 2) {
        x = Combine::of(x, __shfl_xor_sync(0xffffffffu, x, offset));
    }
    return x;
}

template <class T>
__device__ __forceinline__ T block_sum(T x) {
    return combined<Plus>(x, (T)0);
}

__device__ __forceinline__ float block_max(float x) {
    return combined<Larger>(x, -3.402823466e38f);
}

// Defines kernels for each type of activations.
#define FOR_EACH_TYPE(kernel) \
    kernel(float, f32)        \
    kernel(bf16, bf16)
