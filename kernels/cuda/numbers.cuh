// Numbers of two bytes: how they are stored, and that they are computed in float. Written out here because the headers
// cuda_fp16.h and cuda_bf16.h are not on every machine that has a driver.

struct alignas(2) Half { unsigned short bits; };      // IEEE binary16: 5 bits of exponent, 10 of fraction
struct alignas(2) Bfloat16 { unsigned short bits; };  // the upper half of a float: 8 bits of exponent, 7 of fraction

#ifndef MINIDL_CUDA_HOST  // the shim has these two in plain C++
__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ unsigned short float_to_half(float value) {  // to nearest, ties to even
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

// The number in the type it is computed in.
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(Half value) { return half_to_float(value.bits); }
__device__ __forceinline__ float widen(Bfloat16 value) { return __int_as_float((int)((unsigned)value.bits << 16)); }

template <typename T> struct Wide { using type = T; };
template <> struct Wide<Half> { using type = float; };
template <> struct Wide<Bfloat16> { using type = float; };

// The number as it is stored, rounded to nearest, ties to even.
template <typename T> struct Narrow {
    template <typename Value> __device__ static T of(Value value) { return (T)value; }
};
template <> struct Narrow<Half> {
    __device__ static Half of(float value) { return {float_to_half(value)}; }
};
template <> struct Narrow<Bfloat16> {
    __device__ static Bfloat16 of(float value) {
        const unsigned bits = (unsigned)__float_as_int(value);
        if (value != value) return {0x7fff};
        return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
    }
};

template <typename T, typename Value>
__device__ __forceinline__ T narrow(Value value) { return Narrow<T>::of(value); }
