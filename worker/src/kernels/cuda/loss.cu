// The weighted cross-entropy of each row of logits [T, V]; a block serves a row.

// `weight (log sum exp(logits) - logits[token])`; with `gradient`, replaces the logits with `weight (softmax -
// one-hot)`.
template <class T>
__device__ __forceinline__ void nll_of(double* losses, T* logits, const unsigned* tokens,
                                       const float* weights, index vocabulary, bool gradient) {
    T* row = logits + blockIdx.x * vocabulary;
    unsigned token = tokens[blockIdx.x];
    float weight = weights[blockIdx.x];
    float own = widen(row[token]);
    float largest = -3.402823466e38f;
    for (index i = threadIdx.x; i < vocabulary; i += blockDim.x) {
        largest = fmaxf(largest, widen(row[i]));
    }
    largest = block_max(largest);
    float sum = 0.0f;
    for (index i = threadIdx.x; i < vocabulary; i += blockDim.x) {
        sum += expf(widen(row[i]) - largest);
    }
    // After this, all threads have read the logit of the token, too.
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        losses[blockIdx.x] = (double)weight * (log((double)sum) + (double)largest - (double)own);
    }
    if (gradient) {
        float factor = weight / sum;
        for (index i = threadIdx.x; i < vocabulary; i += blockDim.x) {
            float g = expf(widen(row[i]) - largest) * factor;
            row[i] = rounded<T>(i == token ? g - weight : g);
        }
    }
}

#define NLL(T, type)                                                                           \
    extern "C" __global__ void nll_##type(double* losses, T* logits, const unsigned* tokens,  \
                                          const float* weights, index vocabulary) {            \
        nll_of(losses, logits, tokens, weights, vocabulary, false);                            \
    }                                                                                          \
    extern "C" __global__ void nll_back_##type(double* losses, T* logits,                     \
                                               const unsigned* tokens, const float* weights,   \
                                               index vocabulary) {                             \
        nll_of(losses, logits, tokens, weights, vocabulary, true);                             \
    }
FOR_EACH_TYPE(NLL)
