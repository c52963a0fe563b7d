// What generated code is written in: vectors of VL numbers, the operators of a Program on them, and dot products.
//
// Pasted in front of every generated source, which must have said before what a number is:
//     typedef float real;        (or double)
//     #define REAL_IS_DOUBLE 0   (or 1)
// C++17 with the vector extensions of GCC >= 9 and clang >= 12, the widest registers that the target's macros name.
// No header but pthread.h is read: <cmath> or <immintrin.h> would cost more time to compile than all that follows.
//
// NaN in is NaN out for every operator on numbers, except `sign`, whose NaN is 0 as in torch. Nothing here needs
// -ffast-math, and -ffinite-math-only would break it.

#include <pthread.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif
constexpr int VL = BYTES / sizeof(real);

#if REAL_IS_DOUBLE
typedef long long whole;
#define LIBM(name) __builtin_##name
#else
typedef int whole;
#define LIBM(name) __builtin_##name##f
#endif

typedef real V __attribute__((vector_size(BYTES), may_alias));
typedef whole M __attribute__((vector_size(BYTES), may_alias));  // a mask: every lane 0 or -1
typedef real Unaligned __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

INLINE V splat(real x) { return x - V{}; }  // x - 0 is x, -0 too
INLINE V load(const real* p) { return *(const Unaligned*)p; }
INLINE void store(real* p, V v) { *(Unaligned*)p = v; }

// The first n lanes, 0 <= n <= VL. The assembler's masked moves fault on no lane that they leave out.
INLINE M first(int n) {
    M lane;
    for (int i = 0; i < VL; ++i) lane[i] = i;
    return lane < (M{} + (whole)n);
}

INLINE V load(const real* p, int n) {
    V v;
#if defined(__AVX512F__) && REAL_IS_DOUBLE
    asm("vmovupd %1, %0%{%2%}%{z%}" : "=v"(v) : "m"(*(const Unaligned*)p), "Yk"((unsigned char)((1u << n) - 1)));
#elif defined(__AVX512F__)
    asm("vmovups %1, %0%{%2%}%{z%}" : "=v"(v) : "m"(*(const Unaligned*)p), "Yk"((unsigned short)((1u << n) - 1)));
#elif defined(__AVX__) && REAL_IS_DOUBLE
    asm("vmaskmovpd %1, %2, %0" : "=x"(v) : "m"(*(const Unaligned*)p), "x"(first(n)));
#elif defined(__AVX__)
    asm("vmaskmovps %1, %2, %0" : "=x"(v) : "m"(*(const Unaligned*)p), "x"(first(n)));
#else
    v = V{};
    for (int i = 0; i < VL; ++i)
        if (i < n) v[i] = p[i];
#endif
    return v;
}

INLINE void store(real* p, V v, int n) {
#if defined(__AVX512F__) && REAL_IS_DOUBLE
    asm("vmovupd %1, %0%{%2%}" : "+m"(*(Unaligned*)p) : "v"(v), "Yk"((unsigned char)((1u << n) - 1)));
#elif defined(__AVX512F__)
    asm("vmovups %1, %0%{%2%}" : "+m"(*(Unaligned*)p) : "v"(v), "Yk"((unsigned short)((1u << n) - 1)));
#elif defined(__AVX__) && REAL_IS_DOUBLE
    asm("vmaskmovpd %1, %2, %0" : "+m"(*(Unaligned*)p) : "x"(v), "x"(first(n)));
#elif defined(__AVX__)
    asm("vmaskmovps %1, %2, %0" : "+m"(*(Unaligned*)p) : "x"(v), "x"(first(n)));
#else
    for (int i = 0; i < VL; ++i)
        if (i < n) p[i] = v[i];
#endif
}

// Operators that the machine has.

INLINE V v_add(V a, V b) { return a + b; }
INLINE V v_sub(V a, V b) { return a - b; }
INLINE V v_mul(V a, V b) { return a * b; }
INLINE V v_div(V a, V b) { return a / b; }
INLINE V v_neg(V a) { return -a; }
INLINE M v_lt(V a, V b) { return (M)(a < b); }
INLINE M v_le(V a, V b) { return (M)(a <= b); }
INLINE M v_gt(V a, V b) { return (M)(a > b); }
INLINE M v_ge(V a, V b) { return (M)(a >= b); }
INLINE M v_eq(V a, V b) { return (M)(a == b); }
INLINE M v_ne(V a, V b) { return (M)(a != b); }
INLINE M v_and(M a, M b) { return a & b; }
INLINE M v_or(M a, M b) { return a | b; }
INLINE M v_not(M a) { return ~a; }
INLINE V v_where(M m, V a, V b) { return m ? a : b; }
INLINE V v_number(M m) { return (V)(m & (M)splat(1)); }
INLINE V v_minimum(V a, V b) { return v_where(v_lt(a, b) | v_ne(a, a), a, b); }
INLINE V v_maximum(V a, V b) { return v_where(v_gt(a, b) | v_ne(a, a), a, b); }
INLINE V v_abs(V a) { return (V)((M)a & ~(M)splat(-(real)0)); }
INLINE V v_sign(V a) { return v_number(v_gt(a, V{})) - v_number(v_lt(a, V{})); }
INLINE V v_relu(V a) { return v_where(v_le(a, V{}), V{}, a); }
INLINE V v_reciprocal(V a) { return 1 / a; }

INLINE V v_sqrt(V a) {
    V r;
#if defined(__AVX__) && REAL_IS_DOUBLE
    asm("vsqrtpd %1, %0" : "=v"(r) : "v"(a));
#elif defined(__AVX__)
    asm("vsqrtps %1, %0" : "=v"(r) : "v"(a));
#else
    for (int i = 0; i < VL; ++i) r[i] = LIBM(sqrt)(a[i]);
#endif
    return r;
}
INLINE V v_rsqrt(V a) { return 1 / v_sqrt(a); }

// Operators that few cells use: the C library's, lane by lane.

#define LANES(name)                                                  \
    INLINE V v_##name(V a) {                                         \
        V r;                                                         \
        for (int i = 0; i < VL; ++i) r[i] = LIBM(name)((real)a[i]); \
        return r;                                                    \
    }
LANES(expm1)
LANES(log)
LANES(log1p)
LANES(erf)
LANES(sin)
LANES(cos)
LANES(atan)
#undef LANES

INLINE V v_pow(V a, V b) {
    V r;
    for (int i = 0; i < VL; ++i) r[i] = LIBM(pow)((real)a[i], (real)b[i]);
    return r;
}

// exp, sigmoid, tanh, by x = n ln 2 + r with n whole and |r| <= ln 2 / 2. The polynomials and the quotient were
// interpolated at Chebyshev's points, to 1e-8 in float and 2e-17 in double; rounding leaves at most 1.2 units in the last
// place in exp and 2.7 in sigmoid and tanh. What would be subnormal may be 0.

// x held within [-far, far], but NaN stays: it is the second operand, which these instructions hand on.
INLINE V clamp(V x, real far) {
#if defined(__AVX__) && REAL_IS_DOUBLE
    asm("vmaxpd %1, %2, %0" : "=v"(x) : "v"(x), "v"(splat(-far)));
    asm("vminpd %1, %2, %0" : "=v"(x) : "v"(x), "v"(splat(far)));
#elif defined(__AVX__)
    asm("vmaxps %1, %2, %0" : "=v"(x) : "v"(x), "v"(splat(-far)));
    asm("vminps %1, %2, %0" : "=v"(x) : "v"(x), "v"(splat(far)));
#else
    x = v_where(v_lt(x, splat(-far)), splat(-far), x);
    x = v_where(v_gt(x, splat(far)), splat(far), x);
#endif
    return x;
}

#if REAL_IS_DOUBLE
constexpr int MANTISSA = 52;
constexpr real LN2_HIGH = 6.93145751953125e-1, LN2_LOW = 1.42860682030941723212e-6;  // n LN2_HIGH is exact
#else
constexpr int MANTISSA = 23;
constexpr real LN2_HIGH = 6.93359375e-1f, LN2_LOW = -2.12194440054690583e-4f;
#endif

struct Split {
    V r;
    M n;  // where the exponent's bits are: as an integer, n << MANTISSA
};

INLINE Split split(V x) {
    constexpr real magic = (real)3 * ((whole)1 << (MANTISSA - 1));  // a sum this large has whole n in its last bits
    V shifted = x * (real)1.44269504088896340736 + magic;
    V n = shifted - magic;
    V r = x - n * LN2_HIGH;
    return {r - n * LN2_LOW, (M)shifted << MANTISSA};
}

INLINE V power_of_two(M n) { return (V)((M)splat(1) + n); }

// e^r - 1
INLINE V exp_less_one(V r) {
    V z = r * r;
#if REAL_IS_DOUBLE
    V w = z * z;
    V a = r * 0.16666666666666667453 + 0.50000000000000010221;
    V b = r * 0.0083333333333300618325 + 0.041666666666624127873;
    V c = r * 0.00019841269863053616878 + 0.0013888888917213716901;
    V d = r * 2.7557268459997064772e-6 + 0.000024801521295954375131;
    V e = r * 2.5100385495510319078e-8 + 2.7620088445409748161e-7;
    V q = w * (w * e + (z * d + c)) + (z * b + a);
#else
    V a = r * 0.16666576989698775683f + 0.5f;
    V b = r * 0.0083631790527225773704f + 0.041666554617204574203f;
    V q = z * (z * 0.0013926183587713494542f + b) + a;
#endif
    return z * q + r;
}

INLINE V v_exp(V x) {
#if REAL_IS_DOUBLE
    constexpr real low = -708.39641853226410622, high = 709.78271289338399684;
#else
    constexpr real low = -87.3365447505f, high = 88.7228317261f;
#endif
    Split s = split(x);
    V y = (V)((M)(exp_less_one(s.r) + 1) + s.n);
    y = x <= high ? y : x + (real)__builtin_inf();  // infinity, and NaN
    return x < low ? V{} : y;
}

// tanh x = (e^2x - 1) / (e^2x + 1); no digits are lost where n is 0, which is around 0.
INLINE V v_tanh(V x) {
    Split s = split(clamp(x + x, 40));
    V scale = power_of_two(s.n), less_one = scale * exp_less_one(s.r) + (scale - 1);
    return less_one / (less_one + 2);
}

// sigmoid x = 1 / (1 + e^-x) = up / (up + 2^-n down) where e^r = up / down: half as many steps as the polynomial.
INLINE V v_sigmoid(V x) {
#if REAL_IS_DOUBLE
    constexpr real far = 709;  // beyond it the result is subnormal, or 1
#else
    constexpr real far = 88;
#endif
    Split s = split(clamp(x, far));
    V z = s.r * s.r;
#if REAL_IS_DOUBLE
    V even = z * (z * 0.00099182270735573810228 + 0.11110870304843419218) + 1;
    V odd = (z * (z * 0.00003304872663824348243 + 0.013887684857550510233) + 0.5) * s.r;
#else
    V even = z * 0.099985693181432450644f + 1;
    V odd = (z * 0.008326188861128330339f + 0.5f) * s.r;
#endif
    V up = even + odd, down = even - odd;
    return up / (down * power_of_two(-s.n) + up);
}

// Numbers below the smallest normal one cost a hundred cycles each where a state dies away: 0 instead, in this thread.
struct Flush {
#if defined(__x86_64__) || defined(__i386__)
    unsigned before = __builtin_ia32_stmxcsr();
    Flush() { __builtin_ia32_ldmxcsr(before | 0x8040); }
    ~Flush() { __builtin_ia32_ldmxcsr(before); }
#elif defined(__aarch64__)
    unsigned long long before;
    Flush() {
        asm volatile("mrs %0, fpcr" : "=r"(before));
        asm volatile("msr fpcr, %0" ::"r"(before | 1ull << 24) : "memory");
    }
    ~Flush() { asm volatile("msr fpcr, %0" ::"r"(before) : "memory"); }
#else
    Flush() {}
    ~Flush() {}
#endif
};

// task(work, 0), ..., task(work, threads - 1), at the same time where there are threads enough, in any order.
typedef void (*Task)(void* work, int thread);

struct Crew {
    Task task;
    void* work;
    int threads;
    int next;
};

// Whoever comes takes numbers until none is left, so all are done however few threads the runtime gives.
static inline void* take(void* crew_) {
    Crew* crew = (Crew*)crew_;
    for (int i; (i = __atomic_fetch_add(&crew->next, 1, __ATOMIC_RELAXED)) < crew->threads;) crew->task(crew->work, i);
    return nullptr;
}
static inline void take_in_region(void* crew) { take(crew); }

// `parallel`: null, or the address of GOMP_parallel in the OpenMP runtime whose threads are to be used.
static inline void run(int threads, Task task, void* work, void* parallel) {
    if (threads == 1) return task(work, 0);
    Crew crew = {task, work, threads, 0};
    if (parallel) {
        typedef void (*Parallel)(void (*)(void*), void*, unsigned, unsigned);
        ((Parallel)parallel)(take_in_region, &crew, threads, 0);
        return;
    }
    pthread_t hands[64];
    int started = 0;
    while (started < threads - 1 && started < 64 && !pthread_create(&hands[started], nullptr, take, &crew)) ++started;
    take(&crew);
    while (started) pthread_join(hands[--started], nullptr);
}

// Registers for the sums of `dot`: what is left of the machine's 16 or 32 beside a row of weights and a number of a.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int TILE = 24;
#elif defined(__AVX__)
constexpr int TILE = 12;
#else
constexpr int TILE = 8;
#endif

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("nounroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#define NO_UNROLL _Pragma("GCC unroll 1")
#endif

// sum += a b, in place and with both in registers: left to itself GCC fetches b again for every sum, or has the sums
// change registers until some have none.
INLINE void add_product(V& sum, V a, V b) {
#if defined(__FMA__) && REAL_IS_DOUBLE
    asm("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#elif defined(__FMA__)
    asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
#else
    sum = a * b + sum;
#endif
}

// One k of `dot`. What is fewer, rows or vectors of weights, stays in registers while the other passes by.
template <int R, int N>
INLINE void multiply(V (&sum)[R][N], const real* const (&a)[R], long k, const real* w) {
    if constexpr (R == 1) {
        UNROLL for (int n = 0; n < N; ++n) sum[0][n] = load(w + n * VL) * a[0][k] + sum[0][n];
    } else if constexpr (R < N) {
        V x[R];
        UNROLL for (int r = 0; r < R; ++r) x[r] = splat(a[r][k]);
        UNROLL for (int n = 0; n < N; ++n) {
            V weights = load(w + n * VL);
            UNROLL for (int r = 0; r < R; ++r) add_product(sum[r][n], x[r], weights);
        }
    } else {
        V weights[N];
        UNROLL for (int n = 0; n < N; ++n) weights[n] = load(w + n * VL);
        UNROLL for (int r = 0; r < R; ++r) {
            V x = splat(a[r][k]);
            UNROLL for (int n = 0; n < N; ++n) add_product(sum[r][n], x, weights[n]);
        }
    }
}

// acc[r][n] += sum over k of a[r][k] w[k][n]; w holds N * VL numbers for each k, one k after the other.
template <int R, int N>
INLINE void dot(V (&acc)[R][N], const real* const* a, const real* w, long K) {
    // A sum waits for its own last addition, 4 or 5 cycles; where there are too few to fill these, four k go side by
    // side.
    constexpr int STEP = 4, PARTS = R * N >= 8 ? 1 : R * N >= 4 ? 2 : 4;
    V part[PARTS][R][N];
    const real* row[R];
    UNROLL for (int r = 0; r < R; ++r) {
        row[r] = a[r];
        UNROLL for (int n = 0; n < N; ++n) {
            part[0][r][n] = acc[r][n];
            UNROLL for (int p = 1; p < PARTS; ++p) part[p][r][n] = V{};
        }
    }
    long k = 0;
    for (; k + STEP <= K; k += STEP) {
        UNROLL for (int p = 0; p < STEP; ++p) multiply(part[p % PARTS], row, k + p, w + p * N * VL);
        w += STEP * N * VL;
    }
    NO_UNROLL for (; k < K; ++k, w += N * VL) multiply(part[0], row, k, w);
    UNROLL for (int r = 0; r < R; ++r)
        UNROLL for (int n = 0; n < N; ++n) {
            UNROLL for (int p = 1; p < PARTS; ++p) part[0][r][n] += part[p][r][n];
            acc[r][n] = part[0][r][n];
        }
}
