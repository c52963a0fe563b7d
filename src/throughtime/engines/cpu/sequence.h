// A whole sequence: the loop over time, the products with packed weights, the split of the rows between threads.
//
// What is generated for a cell comes before and after this text: sizes before it; after it, for each stage of a step, a
// function on one vector of units of one row. A stage is: products of the rows with packed weights, then that function
// while what they made is still in the nearest cache.
//
// T steps, B sequences, H units. Rows are packed: sequence b at step t is row start[t] + b, and count[t] sequences,
// the longest first, still run at step t.

#include <stdlib.h>
#include <string.h>

typedef long long idx;

constexpr idx DEEP = 128;   // rows of packed weights that are gone through at a time: they stay in the nearest cache
constexpr idx BLOCK = 48;   // sequences that are taken through a panel of weights together

static inline idx least(idx a, idx b) { return a < b ? a : b; }

// Where the rows of a step lie.
struct Rows {
    idx T, B;
    const idx *start, *count;   // null: all B sequences at every step
    inline idx first(idx t) const { return start ? start[t] : t * B; }
    inline idx running(idx t) const { return count ? count[t] : B; }
    inline idx total() const { return count ? (T ? start[T - 1] + count[T - 1] : 0) : T * B; }
};

// One product: `N` vectors of accumulators for each row, from segments of columns of the rows of one buffer.
// tile[row][N vectors] += row[0..K) · w[k][N vectors]
template <int R, int N>
static __attribute__((noinline)) void some_rows(real* tile, const real* const* a, const real* w, idx K) {
    V acc[R][N];
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) acc[r][n] = load(tile + (r * N + n) * VL);
    dot<R, N>(acc, a, w, (long)K);
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) store(tile + (r * N + n) * VL, acc[r][n]);
}

template <int R, int N>
static inline void up_to(idx rows, real* tile, const real* const* a, const real* w, idx K) {
    if constexpr (R > 0) {
        if (rows == R) some_rows<R, N>(tile, a, w, K);
        else up_to<R - 1, N>(rows, tile, a, w, K);
    }
}

// `rows` rows in blocks of nearly equal size, none larger than the registers hold.
template <int N>
static inline void product(idx rows, real* tile, const real* const* a, const real* w, idx K) {
    constexpr int MOST = TILE / N > 0 ? TILE / N : 1;
    idx blocks = (rows + MOST - 1) / MOST;
    for (idx done = 0; blocks > 0; blocks--) {
        idx some = (rows - done + blocks - 1) / blocks;
        up_to<MOST, N>(some, tile + done * N * VL, a + done, w, K);
        done += some;
    }
}

// All of K in slices that stay in the nearest cache; `a` is moved along and is not of use afterwards.
template <int N>
static inline void deep_product(idx rows, real* tile, const real** a, const real* w, idx K) {
    for (idx k = 0; k < K; k += DEEP) {
        idx deep = least(DEEP, K - k);
        product<N>(rows, tile, a, w + k * N * VL, deep);
        for (idx r = 0; r < rows; r++) a[r] += deep;
    }
}

// Memory that is given back however a function ends; zeroed, on a cache line.
struct Memory {
    void* at;
    explicit Memory(size_t bytes) : at(aligned(bytes)) {
        if (at) memset(at, 0, bytes);
    }
    ~Memory() { free(at); }
    static void* aligned(size_t bytes) {
        void* got = nullptr;
        return posix_memalign(&got, 64, bytes ? bytes : 64) ? nullptr : got;
    }
};

static inline idx padded(idx H) { return (H + VL - 1) / VL * VL; }

// Panels of weights for products of one input of K numbers by `taps` blocks of H rows: [panel][k][tap][nu vectors],
// zero past H.
static void pack_rows(real* out, const real* weight, const idx* blocks, int taps, int nu, idx H, idx K) {
    const idx wide = (idx)nu * VL, each = taps * wide;
    for (idx unit = 0; unit < H; unit += wide, out += K * each)
        for (int tap = 0; tap < taps; tap++)
            for (idx lane = 0; lane < wide; lane++) {
                real* to = out + tap * wide + lane;
                if (unit + lane < H) {
                    const real* from = weight + (blocks[tap] * H + unit + lane) * K;
                    for (idx k = 0; k < K; k++) to[k * each] = from[k];
                } else {
                    for (idx k = 0; k < K; k++) to[k * each] = 0;
                }
            }
}

// Panels of weights for the products' way back: [panel][k over blocks][NU vectors], zero past H; rows are the inputs.
static void pack_columns(real* out, const real* weight, const idx* blocks, int count, int nu, idx H) {
    const idx wide = (idx)nu * VL;
    for (idx unit = 0; unit < H; unit += wide)
        for (int block = 0; block < count; block++)
            for (idx k = 0; k < H; k++, out += wide) {
                const real* from = weight + (blocks[block] * H + k) * H + unit;
                const idx there = least(wide, H - unit);
                for (idx lane = 0; lane < there; lane++) out[lane] = from[lane];
                for (idx lane = there; lane < wide; lane++) out[lane] = 0;
            }
}

static inline size_t packed_size(idx H, idx K, int taps, int nu) {
    const idx wide = (idx)nu * VL;
    return (size_t)((H + wide - 1) / wide * wide * K * taps);
}

// First row of each thread's share, so that each has about as many steps to do.
static void share_out(const Rows& rows, int threads, idx* bounds) {
    bounds[0] = 0;
    if (!rows.count) {
        for (int n = 1; n <= threads; n++) bounds[n] = rows.B * n / threads;
        return;
    }
    idx total = 0, done = 0, t = rows.T;
    for (idx step = 0; step < rows.T; step++) total += rows.count[step];
    int n = 1;
    for (idx b = 0; b < rows.B; b++) {
        while (t > 0 && rows.count[t - 1] <= b) t--;   // t is the length of sequence b
        done += t;
        while (n < threads && done * threads >= total * n) bounds[n++] = b + 1;
    }
    while (n <= threads) bounds[n++] = rows.B;
    bounds[threads] = rows.B;
}

// What is asked of a run forward; all fields are eight bytes wide, in the order in which kernel.py fills them.
struct Forward {
    Rows rows;
    idx H, I, reverse, threads;
    idx keep;                    // bit p: the states of part p are wanted at every step, else only two steps are held
    void* parallel;              // GOMP_parallel, or null
    const real *x, *weight_ih, *bias_ih;   // (N, I), (INPUTS·H, I); x null: u is given
    real* u;                     // (N, INPUTS·H); null: it need not be kept
    const real *weight, *bias;
    real* saved;                 // (N, SAVED·H), or null
    const real* vectors[VECTORS + 1];
    const real* initial[PARTS];  // (B, H)
    real* states[PARTS];         // (N, H), or (2·B, H) where only two steps are held
    real* final[PARTS];          // (B, H)
    real* gates[GATES + 1];      // (N, H), or null
};

// And of a run back.
struct Backward {
    Rows rows;
    idx H, reverse, threads;
    void* parallel;
    const real *u, *weight;
    const real* saved;
    const real* vectors[VECTORS + 1];
    const real* initial[PARTS];
    const real* states[PARTS];
    const real* outer[PARTS];    // dL/dz_t from outside, (N, H), or null
    const real* last[PARTS];     // dL/d final, (B, H), or null
    real* first[PARTS];          // dL/d initial, (B, H), or null
    real* slots;                 // (N, SLOTS·H): dL/du, dL/d products, each sequence's share of dL/d vectors
};

// Gradients of weights, after a run back: out[m][k] = sum over rows of slots[row][slot + m] · b[row][k], and sums[m] the
// sum of slots[row][slot + m] alone. The rows are in up to two pieces, as b may be put together of two tensors.
struct Job {
    idx slot, M, K;
    real *out, *sums;            // (M, K), or null; (M), or null
    idx first[2], rows[2];       // of the slots
    const real* b[2];
    idx wide[2];                 // numbers from one row of b to the next
};

struct Gradients {
    idx wide, threads, jobs;     // numbers from one row of the slots to the next
    void* parallel;
    const real* slots;
};

// One thread's rows lo..hi. What is given by row is asked for by the sequence's number b.
struct Walk {
    idx lo, hi, wide;            // numbers from one row of scratch to the next
    idx row0 = 0;                // the first row of the step
    const real* const* packed;
    real* tile;                  // of products
    real* room;                  // scratch, SCRATCH places for each row
    inline real* place(int at, idx b) const { return room + (at * (hi - lo) + (b - lo)) * wide; }
};

struct StepWalk : Walk {
    const Forward& c;
    const real* const* biases;
    const real** past[PARTS];    // the state before the step, row by row
    real** next[PARTS];          // and after it
    real** shares;               // the input's share, row by row
    explicit StepWalk(const Forward& call) : c(call) {}
    inline const real* before(int part, idx b) const { return past[part][b - lo]; }
    inline real* now(int part, idx b) const { return next[part][b - lo]; }
    inline const real* share(idx b) const { return shares[b - lo]; }
    inline real* scratch(int at, idx b) const { return place(at, b); }
    inline real* given(int source, idx b) const { return place(STEP_SCRATCH + source, b); }
};

struct BackWalk : Walk {
    const Backward& c;
    const real** past[PARTS];    // the state before the step, row by row
    const real** after;          // what was written down at the step after, row by row
    explicit BackWalk(const Backward& call) : c(call) {}
    inline const real* before(int part, idx b) const { return past[part][b - lo]; }
    inline const real* share(idx b) const { return c.u + (row0 + b) * (INPUTS * c.H); }
    inline const real* later(idx b) const { return after[b - lo]; }
    inline real* written(idx b) const { return c.slots + (row0 + b) * (SLOTS * c.H); }
    inline real* slot(int at, idx b) const { return written(b) + at * c.H; }
    inline real* carry(int part, idx b) const { return place(part, b); }
    inline real* scratch(int at, idx b) const { return place(PARTS + at, b); }
};

template <bool TAIL> static inline V get(const real* from, int n) { return TAIL ? load(from, n) : load(from); }
template <bool TAIL> static inline void put(real* to, V value, int n) {
    if (TAIL) store(to, value, n);
    else store(to, value);
}

// Which blocks of weight_hh and bias_hh a product reads.
struct StepDot { int taps, wide; idx blocks[MOST_VECTORS], biases[MOST_VECTORS]; };   // bias −1: none
struct BackDot { int count, wide; const idx* blocks; };
