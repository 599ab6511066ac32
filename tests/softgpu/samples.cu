// Sample kernels of softgpu's own tests: one for each feature that the software GPU offers.
#line 1 "samples/elementwise.cu"
static_assert(sizeof(unsigned short) == 2, "bf16 values are stored as unsigned short");

__device__ __forceinline__ float sample_bf16_to_float(unsigned short bits) {
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

__device__ __forceinline__ unsigned short sample_float_to_bf16(float value) {
    unsigned bits = __float_as_uint(value);
    return static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

struct SampleScale {
    float factor;
    double offset;
    int count;
};

extern "C" __global__ void sample_add(const float* __restrict__ a, const float* __restrict__ b,
                               float* __restrict__ sum, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) sum[i] = a[i] + b[i];
}

extern "C" __global__ void __launch_bounds__(256)
sample_scale(const float* in, float* out, SampleScale by) {
    int stride = gridDim.x * blockDim.x;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < by.count; i += stride) {
        out[i] = fmaf(__ldg(in + i), by.factor, static_cast<float>(by.offset));
    }
}

extern "C" __global__ void sample_to_bf16(const float* in, unsigned short* out, long long count) {
    long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) out[i] = sample_float_to_bf16(in[i]);
}

extern "C" __global__ void sample_from_bf16(const unsigned short* in, float* out, long long count) {
    long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < count) out[i] = sample_bf16_to_float(in[i]);
}

#define UNARY(NAME, EXPRESSION)                                                \
    extern "C" __global__ void NAME(const float* in, float* out, int count) {  \
        int i = blockIdx.x * blockDim.x + threadIdx.x;                         \
        if (i >= count) return;                                                \
        float x = in[i];                                                       \
        out[i] = EXPRESSION;                                                   \
    }
UNARY(sample_unary_exp, expf(x))
UNARY(sample_unary_log, logf(x) + log1pf(x))
UNARY(sample_unary_root, sqrtf(x) + rsqrtf(x) + __fsqrt_rn(x) + __fdiv_rn(1.0f, x))
UNARY(sample_unary_clamp, fmaxf(fminf(x, 1.0f), min(0.25f, max(x, 0.5f))))

extern "C" __global__ void sample_negate4(const float4* __restrict__ in, float4* __restrict__ out) {
    float4 v = in[threadIdx.x];
    out[threadIdx.x] = make_float4(-v.x, -v.y, -v.z, -v.w);
}

extern "C" __global__ void sample_copy_structs(const SampleScale* in, SampleScale* out,
                                               unsigned count) {
    extern __shared__ __align__(16) unsigned char staged[];
    SampleScale* scratch = reinterpret_cast<SampleScale*>(staged);
    #pragma unroll
    for (unsigned i = threadIdx.x; i < min(count, 64); i += blockDim.x) scratch[i] = in[i];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < min(count, 64); i += blockDim.x) {
        out[i] = scratch[count - 1 - i];
    }
}

// Doubles, floats and integers together.
__device__ float sample_select(bool first, float a, float b) { return first ? a : b; }

extern "C" __global__ void sample_mixed(const double* in, float* out, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    double x = in[i];
    float y = static_cast<float>(x);
    bool regular = isfinite(x) && !isnan(y) && abs(y) < 1e30f;
    float odd = exp(y) + max(y, x) + min(i, 3u);
    out[i] = sample_select(regular, static_cast<float>(exp(x) + log(x)), odd);
}

#line 1 "samples/reduce.cu"
extern "C" __global__ void sample_row_sum_shared(const float* in, float* out, int columns) {
    __shared__ float partial[256];
    float sum = 0.0f;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        sum += in[static_cast<long long>(blockIdx.x) * columns + c];
    }
    partial[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) out[blockIdx.x] = partial[0];
}

extern "C" __global__ void sample_row_sum_shuffle(const float* in, float* out, int columns) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    float sum = 0.0f;
    for (int c = lane; c < columns; c += 32) sum += in[static_cast<long long>(row) * columns + c];
    for (int offset = 16; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    }
    if (lane == 0) out[row] = sum;
}

template <typename T>
__device__ T sample_block_total(T value, T* scratch) {
    for (int offset = 16; offset > 0; offset /= 2) {
        value += __shfl_down_sync(0xffffffffu, value, offset);
    }
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    T total = 0;
    for (int w = 0; w < blockDim.x / 32; ++w) total += scratch[w];
    return __shfl_sync(0xffffffffu, total, 0);
}

extern "C" __global__ void sample_row_mean_dynamic(const float* in, double* out, int columns) {
    extern __shared__ double scratch[];
    double sum = 0;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        sum += in[static_cast<long long>(blockIdx.x) * columns + c];
    }
    double total = sample_block_total<double>(sum, scratch);
    if (threadIdx.x == 0) out[blockIdx.x] = total / columns;
}

extern "C" __global__ void sample_count_positive(const float* in, int* total, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    bool positive = i < count && in[i] > 0.0f;
    unsigned votes = __ballot_sync(0xffffffffu, positive);
    if (threadIdx.x % 32 == 0) atomicAdd(total, __popc(votes));
}

extern "C" __global__ void sample_warp_reverse(int* values) {
    __shared__ int lanes[64];
    lanes[threadIdx.x] = values[threadIdx.x];
    __syncwarp();
    values[threadIdx.x] = lanes[threadIdx.x ^ 31];
}

#line 1 "samples/broken.cu"
extern "C" __global__ void sample_broken_bounds(float* out, int count) {
    out[threadIdx.x + count] = 1.0f;
}

extern "C" __global__ void sample_broken_const(const float* in) {
    const_cast<float*>(in)[threadIdx.x] = 1.0f;
}

extern "C" __global__ void sample_broken_shared_race(float* out) {
    __shared__ float values[64];
    values[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = values[threadIdx.x ^ 32];
}

extern "C" __global__ void sample_broken_shared_undefined(float* out) {
    __shared__ float values[64];
    if (threadIdx.x == 0) values[0] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = values[threadIdx.x];
}

extern "C" __global__ void sample_broken_global_race(float* out) {
    out[0] = static_cast<float>(blockIdx.x * blockDim.x + threadIdx.x);
}

extern "C" __global__ void sample_broken_barrier(float* out) {
    if (threadIdx.x < 16) __syncthreads();
    out[threadIdx.x] = 1.0f;
}

extern "C" __global__ void sample_broken_shuffle(int* out) {
    int value = threadIdx.x;
    if (threadIdx.x < 16) value = __shfl_sync(0xffffffffu, value, 0);
    out[threadIdx.x] = value;
}

extern "C" __global__ void sample_broken_shared_bounds(float* out) {
    __shared__ float values[32];
    values[threadIdx.x + 1] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = values[threadIdx.x + 1];
}
