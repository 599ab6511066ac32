// Kernels that treat every element alike.

__device__ __forceinline__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

#define ADD(T, type)                                                                           \
    extern "C" __global__ void add_##type(T* y, const T* a, const T* b, index n) {            \
        EACH(i, n) {                                                                           \
            y[i] = rounded<T>(widen(a[i]) + widen(b[i]));                                      \
        }                                                                                      \
    }                                                                                          \
    extern "C" __global__ void add_assign_##type(T* y, const T* x, index n) {                 \
        EACH(i, n) {                                                                           \
            y[i] = rounded<T>(widen(y[i]) + widen(x[i]));                                      \
        }                                                                                      \
    }
FOR_EACH_TYPE(ADD)

extern "C" __global__ void round_to_bf16(bf16* y, const float* x, index n) {
    EACH(i, n) {
        y[i] = rounded<bf16>(x[i]);
    }
}

extern "C" __global__ void widen_bf16(float* y, const bf16* x, index n) {
    EACH(i, n) {
        y[i] = widen(x[i]);
    }
}

#define SWIGLU(T, type)                                                                        \
    extern "C" __global__ void swiglu_##type(T* y, const T* gate, const T* up, index n) {     \
        EACH(i, n) {                                                                           \
            float g = widen(gate[i]);                                                          \
            y[i] = rounded<T>(g * sigmoid(g) * widen(up[i]));                                  \
        }                                                                                      \
    }                                                                                          \
    extern "C" __global__ void swiglu_gate_back_##type(T* dgate, const T* dy, const T* gate,  \
                                                       const T* up, int add, index n) {        \
        EACH(i, n) {                                                                           \
            float g = widen(gate[i]);                                                          \
            float s = sigmoid(g);                                                              \
            float slope = s * (1.0f + g * (1.0f - s));                                         \
            put(&dgate[i], widen(dy[i]) * widen(up[i]) * slope, add);                          \
        }                                                                                      \
    }                                                                                          \
    extern "C" __global__ void swiglu_up_back_##type(T* dup, const T* dy, const T* gate,      \
                                                     int add, index n) {                       \
        EACH(i, n) {                                                                           \
            float g = widen(gate[i]);                                                          \
            put(&dup[i], widen(dy[i]) * (g * sigmoid(g)), add);                                \
        }                                                                                      \
    }
FOR_EACH_TYPE(SWIGLU)
