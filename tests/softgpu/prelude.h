// The words of CUDA C that the kernels use, for a C++ compiler of the host.
//
// A GPU thread is a coroutine; the functions named softgpu_* are defined in Rust. Loads and stores
// reach Rust through the calls that -fsanitize=thread inserts. The C library's headers stay out, so
// that its names do not meet the kernels'.
#pragma once
#include <stddef.h>

#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#ifdef SOFTGPU_SCAN
#define __global__ SOFTGPU_GLOBAL
#define __shared__ SOFTGPU_SHARED
#else
#define __global__ __attribute__((noinline))
#define __shared__ thread_local
#endif
#define warpSize 32
#define __CUDA_ARCH__ 900
#define __CUDACC__ 1

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
#define SOFTGPU_VECTORS(T, NAME)                                                                   \
    struct __align__(2 * sizeof(T)) NAME##2 { T x, y; };                                           \
    struct __align__(sizeof(T) < 8 ? 4 * sizeof(T) : 16) NAME##4 { T x, y, z, w; };                \
    static inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                              \
    static inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SOFTGPU_VECTORS(float, float)
SOFTGPU_VECTORS(double, double)
SOFTGPU_VECTORS(int, int)
SOFTGPU_VECTORS(unsigned, uint)
SOFTGPU_VECTORS(short, short)
SOFTGPU_VECTORS(unsigned short, ushort)
SOFTGPU_VECTORS(unsigned char, uchar)
#undef SOFTGPU_VECTORS
struct SoftgpuPair { unsigned long long xy, z; };

extern "C" {
__attribute__((const)) SoftgpuPair softgpu_thread_index();
__attribute__((const)) SoftgpuPair softgpu_block_index();
__attribute__((const)) SoftgpuPair softgpu_block_shape();
__attribute__((const)) SoftgpuPair softgpu_grid_shape();
void softgpu_barrier();
void softgpu_trap();
unsigned softgpu_barrier_reduce(unsigned kind, unsigned predicate);
void softgpu_warp_barrier(unsigned mask);
unsigned long long softgpu_shuffle(unsigned mask, unsigned kind, unsigned long long value,
                                   unsigned operand, unsigned width);
unsigned softgpu_ballot(unsigned mask, unsigned predicate);
unsigned softgpu_atomic32(void* address, unsigned kind, unsigned operand, unsigned compare);
unsigned long long softgpu_atomic64(void* address, unsigned kind, unsigned long long operand,
                                    unsigned long long compare);
}

static inline uint3 softgpu_unpack(SoftgpuPair p) {
    return {unsigned(p.xy), unsigned(p.xy >> 32), unsigned(p.z)};
}
#define threadIdx (softgpu_unpack(softgpu_thread_index()))
#define blockIdx (softgpu_unpack(softgpu_block_index()))
#define blockDim (softgpu_unpack(softgpu_block_shape()))
#define gridDim (softgpu_unpack(softgpu_grid_shape()))

static inline void __syncthreads() { softgpu_barrier(); }
static inline void __trap() { softgpu_trap(); }
static inline int __syncthreads_count(int p) { return int(softgpu_barrier_reduce(0, p != 0)); }
static inline int __syncthreads_and(int p) { return int(softgpu_barrier_reduce(1, p != 0)); }
static inline int __syncthreads_or(int p) { return int(softgpu_barrier_reduce(2, p != 0)); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { softgpu_warp_barrier(mask); }
static inline void __threadfence() { __asm__ volatile("" ::: "memory"); }
static inline void __threadfence_system() { __asm__ volatile("" ::: "memory"); }
static inline void __threadfence_block() { __asm__ volatile("" ::: "memory"); }

template <class T> static inline T softgpu_shuffled(unsigned mask, unsigned kind, T value,
                                                    unsigned operand, int width) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = softgpu_shuffle(mask, kind, bits, operand, unsigned(width));
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}
template <class T> static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    return softgpu_shuffled(mask, 0, value, unsigned(lane), width);
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta,
                                                  int width = 32) {
    return softgpu_shuffled(mask, 1, value, delta, width);
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta,
                                                    int width = 32) {
    return softgpu_shuffled(mask, 2, value, delta, width);
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T value, int lanes,
                                                   int width = 32) {
    return softgpu_shuffled(mask, 3, value, unsigned(lanes), width);
}
static inline unsigned __ballot_sync(unsigned mask, int p) { return softgpu_ballot(mask, p != 0); }
static inline int __any_sync(unsigned mask, int p) { return softgpu_ballot(mask, p != 0) != 0; }
static inline int __all_sync(unsigned mask, int p) { return softgpu_ballot(mask, p == 0) == 0; }

// Kinds of atomics: 0 add, 1 min signed, 2 max signed, 3 min unsigned, 4 max unsigned, 5 and,
// 6 or, 7 exchange, 8 compare and exchange, 9 add of floating point.
static inline int atomicAdd(int* a, int v) { return int(softgpu_atomic32(a, 0, unsigned(v), 0)); }
static inline unsigned atomicAdd(unsigned* a, unsigned v) { return softgpu_atomic32(a, 0, v, 0); }
static inline unsigned long long atomicAdd(unsigned long long* a, unsigned long long v) {
    return softgpu_atomic64(a, 0, v, 0);
}
static inline float atomicAdd(float* a, float v) {
    unsigned bits;
    __builtin_memcpy(&bits, &v, 4);
    bits = softgpu_atomic32(a, 9, bits, 0);
    __builtin_memcpy(&v, &bits, 4);
    return v;
}
static inline double atomicAdd(double* a, double v) {
    unsigned long long bits;
    __builtin_memcpy(&bits, &v, 8);
    bits = softgpu_atomic64(a, 9, bits, 0);
    __builtin_memcpy(&v, &bits, 8);
    return v;
}
static inline int atomicSub(int* a, int v) { return int(softgpu_atomic32(a, 0, -unsigned(v), 0)); }
static inline unsigned atomicSub(unsigned* a, unsigned v) { return softgpu_atomic32(a, 0, -v, 0); }
static inline int atomicMin(int* a, int v) { return int(softgpu_atomic32(a, 1, unsigned(v), 0)); }
static inline int atomicMax(int* a, int v) { return int(softgpu_atomic32(a, 2, unsigned(v), 0)); }
static inline unsigned atomicMin(unsigned* a, unsigned v) { return softgpu_atomic32(a, 3, v, 0); }
static inline unsigned atomicMax(unsigned* a, unsigned v) { return softgpu_atomic32(a, 4, v, 0); }
static inline int atomicAnd(int* a, int v) { return int(softgpu_atomic32(a, 5, unsigned(v), 0)); }
static inline int atomicOr(int* a, int v) { return int(softgpu_atomic32(a, 6, unsigned(v), 0)); }
static inline unsigned atomicAnd(unsigned* a, unsigned v) { return softgpu_atomic32(a, 5, v, 0); }
static inline unsigned atomicOr(unsigned* a, unsigned v) { return softgpu_atomic32(a, 6, v, 0); }
static inline int atomicExch(int* a, int v) { return int(softgpu_atomic32(a, 7, unsigned(v), 0)); }
static inline unsigned atomicExch(unsigned* a, unsigned v) { return softgpu_atomic32(a, 7, v, 0); }
static inline int atomicCAS(int* a, int c, int v) {
    return int(softgpu_atomic32(a, 8, unsigned(v), unsigned(c)));
}
static inline unsigned atomicCAS(unsigned* a, unsigned c, unsigned v) {
    return softgpu_atomic32(a, 8, v, c);
}

template <class T> static inline T __ldg(const T* address) { return *address; }
template <class T> static inline T __ldcs(const T* address) { return *address; }
template <class T> static inline T __ldcg(const T* address) { return *address; }
template <class T> static inline void __stcs(T* address, T value) { *address = value; }
template <class T> static inline void __stcg(T* address, T value) { *address = value; }
static inline unsigned __float_as_uint(float v) {
    unsigned bits;
    __builtin_memcpy(&bits, &v, 4);
    return bits;
}
static inline float __uint_as_float(unsigned bits) {
    float v;
    __builtin_memcpy(&v, &bits, 4);
    return v;
}
static inline int __float_as_int(float v) { return int(__float_as_uint(v)); }
static inline float __int_as_float(int bits) { return __uint_as_float(unsigned(bits)); }
static inline long long __double_as_longlong(double v) {
    long long bits;
    __builtin_memcpy(&bits, &v, 8);
    return bits;
}
static inline double __longlong_as_double(long long bits) {
    double v;
    __builtin_memcpy(&v, &bits, 8);
    return v;
}
// Functions of the C library, and their overloads for float.
#define SOFTGPU_UNARY(NAME)                                                                        \
    extern "C" double NAME(double);                                                                \
    extern "C" float NAME##f(float);                                                               \
    static inline float NAME(float v) { return NAME##f(v); }
#define SOFTGPU_BINARY(NAME)                                                                       \
    extern "C" double NAME(double, double);                                                        \
    extern "C" float NAME##f(float, float);                                                        \
    static inline float NAME(float a, float b) { return NAME##f(a, b); }
SOFTGPU_UNARY(exp) SOFTGPU_UNARY(exp2) SOFTGPU_UNARY(expm1)
SOFTGPU_UNARY(log) SOFTGPU_UNARY(log2) SOFTGPU_UNARY(log10) SOFTGPU_UNARY(log1p)
SOFTGPU_UNARY(sqrt) SOFTGPU_UNARY(cbrt) SOFTGPU_UNARY(erf) SOFTGPU_UNARY(erfc)
SOFTGPU_UNARY(sin) SOFTGPU_UNARY(cos) SOFTGPU_UNARY(tan)
SOFTGPU_UNARY(asin) SOFTGPU_UNARY(acos) SOFTGPU_UNARY(atan)
SOFTGPU_UNARY(sinh) SOFTGPU_UNARY(cosh) SOFTGPU_UNARY(tanh)
SOFTGPU_UNARY(floor) SOFTGPU_UNARY(ceil) SOFTGPU_UNARY(trunc)
SOFTGPU_UNARY(round) SOFTGPU_UNARY(rint) SOFTGPU_UNARY(nearbyint) SOFTGPU_UNARY(fabs)
SOFTGPU_BINARY(pow) SOFTGPU_BINARY(fmod) SOFTGPU_BINARY(atan2) SOFTGPU_BINARY(hypot)
SOFTGPU_BINARY(fmin) SOFTGPU_BINARY(fmax) SOFTGPU_BINARY(copysign)
#undef SOFTGPU_UNARY
#undef SOFTGPU_BINARY
extern "C" double fma(double, double, double);
extern "C" float fmaf(float, float, float);
extern "C" double ldexp(double, int);
extern "C" float ldexpf(float, int);
extern "C" void sincosf(float, float*, float*);
extern "C" long lrintf(float);
extern "C" long lrint(double);
extern "C" long long llrintf(float);
static inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
static inline bool isnan(float v) { return __builtin_isnan(v); }
static inline bool isnan(double v) { return __builtin_isnan(v); }
static inline bool isinf(float v) { return __builtin_isinf(v); }
static inline bool isinf(double v) { return __builtin_isinf(v); }
static inline bool isfinite(float v) { return __builtin_isfinite(v); }
static inline bool isfinite(double v) { return __builtin_isfinite(v); }
static inline bool signbit(float v) { return __builtin_signbit(v); }
static inline int abs(int v) { return v < 0 ? -v : v; }
static inline long abs(long v) { return v < 0 ? -v : v; }
static inline long long abs(long long v) { return v < 0 ? -v : v; }
static inline float abs(float v) { return fabsf(v); }
static inline double abs(double v) { return fabs(v); }

static inline float rsqrtf(float v) { return float(1.0 / sqrt(double(v))); }
static inline float __fsqrt_rn(float v) { return sqrtf(v); }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __frcp_rn(float v) { return 1.0f / v; }
static inline double rsqrt(double v) { return 1.0 / sqrt(v); }
static inline float __saturatef(float v) { return fminf(fmaxf(v, 0.0f), 1.0f); }
static inline int __float2int_rn(float v) { return int(lrintf(v)); }
static inline int __float2int_rz(float v) { return int(v); }
static inline unsigned __float2uint_rn(float v) { return unsigned(llrintf(v)); }
static inline int __double2int_rn(double v) { return int(lrint(v)); }
static inline float __ll2float_rn(long long v) { return float(v); }
static inline float __int2float_rn(int v) { return float(v); }
static inline float __uint2float_rn(unsigned v) { return float(v); }
static inline float __double2float_rn(double v) { return float(v); }
static inline float __expf(float v) { return expf(v); }
static inline float __exp10f(float v) { return powf(10.0f, v); }
static inline float __logf(float v) { return logf(v); }
static inline float __log2f(float v) { return log2f(v); }
static inline float __sinf(float v) { return sinf(v); }
static inline float __cosf(float v) { return cosf(v); }
static inline float __powf(float a, float b) { return powf(a, b); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline float exp10f(float v) { return powf(10.0f, v); }
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return unsigned((static_cast<unsigned long long>(a) * b) >> 32);
}
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
static inline int __ffs(int v) { return __builtin_ffs(v); }

#define SOFTGPU_MIN_MAX(A, B, T)                                                                   \
    static inline T min(A a, B b) { return (T)b < (T)a ? (T)b : (T)a; }                            \
    static inline T max(A a, B b) { return (T)a < (T)b ? (T)b : (T)a; }
#define SOFTGPU_MIN_MAX_OF(T)                                                                      \
    SOFTGPU_MIN_MAX(T, T, T)                                                                       \
    SOFTGPU_MIN_MAX(unsigned T, unsigned T, unsigned T)                                            \
    SOFTGPU_MIN_MAX(T, unsigned T, unsigned T)                                                     \
    SOFTGPU_MIN_MAX(unsigned T, T, unsigned T)
SOFTGPU_MIN_MAX_OF(int)
SOFTGPU_MIN_MAX_OF(long)
SOFTGPU_MIN_MAX_OF(long long)
#undef SOFTGPU_MIN_MAX_OF
#undef SOFTGPU_MIN_MAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(float a, double b) { return fmin(double(a), b); }
static inline double min(double a, float b) { return fmin(a, double(b)); }
static inline double max(float a, double b) { return fmax(double(a), b); }
static inline double max(double a, float b) { return fmax(a, double(b)); }

// The table of kernels: the types of arguments come from the functions themselves.
struct SoftgpuArgument { unsigned size, align, kind; };
struct SoftgpuKernel {
    const char* name;
    void (*call)(void** arguments);
    const SoftgpuArgument* arguments;
    unsigned count;
};
template <class T> struct SoftgpuKind { static constexpr unsigned value = 0; };
template <class T> struct SoftgpuKind<T*> { static constexpr unsigned value = 1; };
template <class T> struct SoftgpuKind<const T*> { static constexpr unsigned value = 2; };
template <class T> struct SoftgpuKind<T* __restrict> { static constexpr unsigned value = 1; };
template <class T> struct SoftgpuKind<const T* __restrict> { static constexpr unsigned value = 2; };

template <int... I> struct SoftgpuIndices {};
template <int N, int... I> struct SoftgpuCount : SoftgpuCount<N - 1, N - 1, I...> {};
template <int... I> struct SoftgpuCount<0, I...> { using type = SoftgpuIndices<I...>; };

template <auto F, class S> struct SoftgpuThunk;
template <auto F, class... A> struct SoftgpuThunk<F, void (*)(A...)> {
    static constexpr SoftgpuArgument arguments[sizeof...(A) + 1] = {
        {unsigned(sizeof(A)), unsigned(alignof(A)), SoftgpuKind<A>::value}..., {0, 0, 0}};
    static constexpr unsigned count = sizeof...(A);
    template <int... I>
    __attribute__((no_sanitize("thread"))) static void with(void** a, SoftgpuIndices<I...>) {
        (void)a;
        F(*static_cast<A*>(a[I])...);
    }
    __attribute__((no_sanitize("thread"))) static void call(void** a) {
        with(a, typename SoftgpuCount<int(sizeof...(A))>::type());
    }
};
template <auto F> constexpr SoftgpuKernel softgpu_kernel(const char* name) {
    using Thunk = SoftgpuThunk<F, decltype(F)>;
    return {name, Thunk::call, Thunk::arguments, Thunk::count};
}
