// The functions that are called: a run forward, a run back, and the gradients of weights after it. They answer 0, or 1
// where memory was refused.

#define EXPORTED extern "C" __attribute__((visibility("default")))

#if defined(__linux__)
#include <sys/mman.h>
// Memory that was just taken and is large: pages of 2 MiB, so that touching it first costs a few faults, not thousands.
static void expect(const void* at, size_t bytes) {
    const size_t page = 1 << 21, first = ((size_t)at + page - 1) / page * page, end = ((size_t)at + bytes) / page * page;
    if (at && end > first) madvise((void*)first, end - first, MADV_HUGEPAGE);
}
#else
static void expect(const void*, size_t) {}
#endif

struct Work {
    const void* call;
    const idx* bounds = nullptr;
    const real* const* packed = nullptr;
    const real* const* biases = nullptr;
    const real *packed_ih = nullptr, *bias_ih = nullptr;
    const Job* jobs = nullptr;
    bool refused = false;
};

constexpr idx SHARED = 1 << 15;   // numbers of the input's share that are made at a time: they stay in the cache
constexpr int PANEL = MOST_VECTORS * VL;

// The input's share for `many` rows of x: to[r] = x[r] weight_ihᵀ + bias_ih.
static void make_shares(const Forward& c, const Work& work, const real* const* x, real* const* to, idx many, real* tile) {
    const idx columns = INPUTS * c.H;
    const real* packed = work.packed_ih;
    for (idx at = 0; at < columns; at += PANEL, packed += c.I * PANEL) {
        const real* a[BLOCK];
        for (idx r = 0; r < many; r++) {
            memcpy(tile + r * PANEL, work.bias_ih + at, sizeof(real) * PANEL);
            a[r] = x[r];
        }
        deep_product<MOST_VECTORS>(many, tile, a, packed, c.I);
        for (idx r = 0; r < many; r++)
            for (idx v = at; v < at + PANEL && v < columns; v += VL) {
                const V made = load(tile + r * PANEL + (v - at));
                if (v + VL <= columns) store(to[r] + v, made);
                else store(to[r] + v, made, (int)(columns - v));
            }
    }
}

// The same for steps from..to of one thread's rows; `shares` gets where each row's share lies.
static void share_steps(
    const Forward& c, const Work& work, const StepWalk& w, idx from, idx to, real** shares, real* made) {
    const idx columns = INPUTS * c.H, mine = w.hi - w.lo;
    const real* x[BLOCK];
    real* out[BLOCK];
    idx many = 0;
    for (idx n = from; n < to; n++) {
        const idx t = c.reverse ? c.rows.T - 1 - n : n, top = least(w.hi, c.rows.running(t)), row0 = c.rows.first(t);
        for (idx b = w.lo; b < top; b++) {
            const idx here = (n - from) * mine + (b - w.lo);
            shares[here] = c.u ? c.u + (row0 + b) * columns : made + here * columns;
            if (!c.x) continue;
            x[many] = c.x + (row0 + b) * c.I, out[many++] = shares[here];
            if (many == BLOCK) make_shares(c, work, x, out, many, w.tile), many = 0;
        }
    }
    if (many) make_shares(c, work, x, out, many, w.tile);
}

static void forward_thread(void* given, int thread) {
    Work& work = *(Work*)given;
    const Forward& c = *(const Forward*)work.call;
    StepWalk w(c);
    w.lo = work.bounds[thread], w.hi = work.bounds[thread + 1], w.wide = padded(c.H);
    const idx mine = w.hi - w.lo, H = c.H;
    if (mine <= 0) return;
    const idx columns = INPUTS * H, together = SHARED / (columns * mine) > 0 ? SHARED / (columns * mine) : 1;
    const idx ahead = c.x ? least(together, c.rows.T) : 1;   // steps whose share is made together
    Memory pointers(sizeof(void*) * (2 * PARTS + ahead) * mine), tile(sizeof(real) * (STEP_DOTS_COUNT + 1) * BLOCK * PANEL);
    Memory room(sizeof(real) * (STEP_SCRATCH + SOURCES) * mine * w.wide);
    Memory made(c.x && !c.u ? sizeof(real) * ahead * mine * columns : 0);
    if (!pointers.at || !tile.at || !room.at || !made.at) { work.refused = true; return; }
    real** shares = (real**)pointers.at + 2 * PARTS * mine;
    w.packed = work.packed, w.biases = work.biases, w.tile = (real*)tile.at, w.room = (real*)room.at;
    for (int p = 0; p < PARTS; p++) {
        w.past[p] = (const real**)pointers.at + p * mine;
        w.next[p] = (real**)pointers.at + (PARTS + p) * mine;
        for (idx b = w.lo; b < w.hi; b++) w.past[p][b - w.lo] = c.initial[p] + b * H;
    }
    Flush flush;
    const idx T = c.rows.T;
    idx base = 0, ready = 0;   // steps base..ready have their share
    for (idx n = 0; n < T; n++) {
        const idx t = c.reverse ? T - 1 - n : n, top = least(w.hi, c.rows.running(t));
        if (top <= w.lo) continue;
        w.row0 = c.rows.first(t);
        if (n >= ready) {
            share_steps(c, work, w, n, ready = least(n + ahead, T), shares, (real*)made.at);
            base = n;
        }
        w.shares = shares + (n - base) * mine;
        for (int p = 0; p < PARTS; p++) {
            const idx row = (c.keep >> p & 1) ? w.row0 : (n & 1) * c.rows.B;
            for (idx b = w.lo; b < top; b++) w.next[p][b - w.lo] = c.states[p] + (row + b) * H;
        }
        run_step(w, w.lo, top);
        for (int p = 0; p < PARTS; p++)
            for (idx b = 0; b < top - w.lo; b++) w.past[p][b] = w.next[p][b];
    }
    for (int p = 0; p < PARTS; p++)
        for (idx b = w.lo; b < w.hi; b++) memcpy(c.final[p] + b * H, w.past[p][b - w.lo], sizeof(real) * H);
}

static void backward_thread(void* given, int thread) {
    Work& work = *(Work*)given;
    const Backward& c = *(const Backward*)work.call;
    BackWalk w(c);
    w.lo = work.bounds[thread], w.hi = work.bounds[thread + 1], w.wide = padded(c.H);
    const idx mine = w.hi - w.lo, H = c.H, T = c.rows.T;
    if (mine <= 0) return;
    Memory pointers(sizeof(void*) * (PARTS + 1) * mine), tile(sizeof(real) * (BACK_DOTS_COUNT + 1) * BLOCK * MOST_VECTORS * VL);
    Memory room(sizeof(real) * (PARTS + BACK_SCRATCH) * mine * w.wide);
    if (!pointers.at || !tile.at || !room.at) { work.refused = true; return; }
    w.packed = work.packed, w.tile = (real*)tile.at, w.room = (real*)room.at;
    w.after = (const real**)pointers.at + PARTS * mine;
    for (int p = 0; p < PARTS; p++) {
        w.past[p] = (const real**)pointers.at + p * mine;
        if (c.last[p])
            for (idx b = w.lo; b < w.hi; b++) memcpy(w.carry(p, b), c.last[p] + b * H, sizeof(real) * H);
    }
    Flush flush;
    idx begun = w.lo;   // rows lo..begun have come through a later step
    for (idx n = T - 1; n >= 0; n--) {
        const idx t = c.reverse ? T - 1 - n : n, top = least(w.hi, c.rows.running(t));
        if (top <= w.lo) continue;
        w.row0 = c.rows.first(t);
        const idx before = c.reverse ? t + 1 : t - 1;
        const bool any = before >= 0 && before < T;
        const idx had = any ? c.rows.running(before) : 0, row = any ? c.rows.first(before) : 0;
        for (int p = 0; p < PARTS; p++)
            for (idx b = w.lo; b < top; b++)
                w.past[p][b - w.lo] = b < had ? c.states[p] + (row + b) * H : c.initial[p] + b * H;
        const idx on = least(begun, top);
        if (on > w.lo) run_back(w, w.lo, on, false);
        if (top > on) run_back(w, on, top, true);
        for (idx b = w.lo; b < top; b++) w.after[b - w.lo] = w.written(b);
        if (top > begun) begun = top;
    }
    if (begun > w.lo) Done::run(w, w.lo, begun, false);
    if (w.hi > begun) Done::run(w, begun, w.hi, true);
}

// tile[r][N vectors] += sum over k of a[k][r] · w[k][N vectors], rows of a `wide` numbers apart.
template <int R>
static __attribute__((noinline)) void some_columns(real* tile, const real* a, idx wide, const real* w, idx K) {
    V acc[R][MOST_VECTORS];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < MOST_VECTORS; v++) acc[r][v] = load(tile + r * PANEL + v * VL);
    for (idx k = 0; k < K; k++, a += wide, w += PANEL) {
        V x[R];
        UNROLL for (int r = 0; r < R; r++) x[r] = splat(a[r]);
        UNROLL for (int v = 0; v < MOST_VECTORS; v++) {
            const V weights = load(w + v * VL);
            UNROLL for (int r = 0; r < R; r++) add_product(acc[r][v], x[r], weights);
        }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < MOST_VECTORS; v++) store(tile + r * PANEL + v * VL, acc[r][v]);
}

template <int R> static inline void columns_up_to(idx many, real* tile, const real* a, idx wide, const real* w, idx K) {
    if constexpr (R > 0) {
        if (many == R) some_columns<R>(tile, a, wide, w, K);
        else columns_up_to<R - 1>(many, tile, a, wide, w, K);
    }
}

constexpr idx FEW = 4;   // columns of b that are gone through one by one: fewer than a panel is worth

// One thread's share of the gradients of weights: a range of the slots' columns, for all K and all rows. The rows are
// gone through a slice at a time; of each slice both sides are first brought together in the nearest caches.
static void gradient_thread(void* given, int thread) {
    Work& work = *(Work*)given;
    const Gradients& c = *(const Gradients*)work.call;
    const int threads = (int)c.threads;
    Flush flush;
    for (idx j = 0; j < c.jobs; j++) {
        const Job& job = work.jobs[j];
        const idx vectors = (job.M + VL - 1) / VL;
        const idx low = vectors * thread / threads * VL, high = least(vectors * (thread + 1) / threads * VL, job.M);
        if (low >= high) continue;
        const idx M = high - low, wide = padded(M) + VL, K = job.out ? job.K : 0, few = K <= FEW ? K : 0;
        const idx panels = few ? 0 : (K + PANEL - 1) / PANEL;
        Memory sums(sizeof(real) * (panels * M * PANEL + (few + 1) * wide)), sides(sizeof(real) * DEEP * (wide + PANEL));
        if (!sums.at || !sides.at) { work.refused = true; return; }
        real *tiles = (real*)sums.at, *single = tiles + panels * M * PANEL;
        real *a = (real*)sides.at, *w = a + DEEP * wide;
        for (int piece = 0; piece < 2; piece++)
            for (idx start = 0; start < job.rows[piece]; start += DEEP) {
                const idx deep = least(DEEP, job.rows[piece] - start);
                const real* slots = c.slots + (job.first[piece] + start) * c.wide + job.slot + low;
                const real* b = job.b[piece] + start * job.wide[piece];
                for (idx n = 0; n < deep; n++) memcpy(a + n * wide, slots + n * c.wide, sizeof(real) * M);
                if (job.sums)
                    for (idx n = 0; n < deep; n++)
                        for (idx m = 0; m < M; m += VL)
                            store(single + few * wide + m, load(single + few * wide + m) + load(a + n * wide + m));
                for (idx k = 0; k < few; k++)
                    for (idx n = 0; n < deep; n++) {
                        const V x = splat(b[n * job.wide[piece] + k]);
                        for (idx m = 0; m < M; m += VL)
                            store(single + k * wide + m, load(single + k * wide + m) + x * load(a + n * wide + m));
                    }
                for (idx panel = 0; panel < panels; panel++) {
                    const idx there = least(PANEL, K - panel * PANEL);
                    for (idx n = 0; n < deep; n++)
                        memcpy(w + n * PANEL, b + n * job.wide[piece] + panel * PANEL, sizeof(real) * there);
                    constexpr int MOST = TILE / MOST_VECTORS;
                    idx blocks = (M + MOST - 1) / MOST;
                    for (idx m = 0; blocks > 0; blocks--) {
                        const idx some = (M - m + blocks - 1) / blocks;
                        columns_up_to<MOST>(some, tiles + (panel * M + m) * PANEL, a + m, wide, w, deep);
                        m += some;
                    }
                }
            }
        for (idx m = 0; m < M; m++) {
            for (idx panel = 0; panel < panels; panel++)
                memcpy(job.out + (low + m) * K + panel * PANEL, tiles + (panel * M + m) * PANEL,
                       sizeof(real) * least(PANEL, K - panel * PANEL));
            for (idx k = 0; k < few; k++) job.out[(low + m) * K + k] = single[k * wide + m];
        }
        if (job.sums) memcpy(job.sums + low, single + few * wide, sizeof(real) * M);
    }
}

template <class Call> static int run_all(const Call& c, Task task, Work& work) {
    const int threads = (int)(c.threads > c.rows.B ? c.rows.B : c.threads);
    Memory bounds(sizeof(idx) * (threads + 1));
    if (!bounds.at) return 1;
    share_out(c.rows, threads, (idx*)bounds.at);
    work.bounds = (const idx*)bounds.at;
    run(threads, task, &work, c.parallel);
    return work.refused;
}

EXPORTED int forward(const Forward* call) {
    const Forward& c = *call;
    const idx H = c.H, N = c.rows.total();
    expect(c.saved, sizeof(real) * N * SAVED * H);
    for (int p = 0; p < PARTS; p++)
        if (c.keep >> p & 1) expect(c.states[p], sizeof(real) * N * H);
    size_t size = 0, wide = 0;
    for (int d = 0; d < STEP_DOTS_COUNT; d++) {
        size += packed_size(H, H, STEP_DOTS[d].taps, STEP_DOTS[d].wide);
        wide += packed_size(H, 1, STEP_DOTS[d].taps, STEP_DOTS[d].wide);
    }
    const idx columns = c.x ? INPUTS * H : 0;
    const size_t size_ih = packed_size(columns, c.I, 1, MOST_VECTORS), wide_ih = packed_size(columns, 1, 1, MOST_VECTORS);
    Memory packed(sizeof(real) * (size + wide)), packed_ih(sizeof(real) * (size_ih + wide_ih));
    if (!packed.at || !packed_ih.at) return 1;
    Work work{&c};
    work.packed_ih = (real*)packed_ih.at, work.bias_ih = work.packed_ih + size_ih;
    if (columns) {
        const idx all = 0;
        pack_rows((real*)packed_ih.at, c.weight_ih, &all, 1, MOST_VECTORS, columns, c.I);
        if (c.bias_ih) memcpy((real*)packed_ih.at + size_ih, c.bias_ih, sizeof(real) * columns);
    }
    const real *weights[STEP_DOTS_COUNT + 1], *biases[STEP_DOTS_COUNT + 1];
    real *to = (real*)packed.at, *bias = to + size;
    for (int d = 0; d < STEP_DOTS_COUNT; d++) {
        const StepDot& dot = STEP_DOTS[d];
        weights[d] = to, biases[d] = bias;
        pack_rows(to, c.weight, dot.blocks, dot.taps, dot.wide, H, H);
        to += packed_size(H, H, dot.taps, dot.wide);
        const idx panel = (idx)dot.wide * VL;
        for (idx unit = 0; unit < H; unit += panel)
            for (int tap = 0; tap < dot.taps; tap++, bias += panel)
                if (c.bias && dot.biases[tap] >= 0)
                    memcpy(bias, c.bias + dot.biases[tap] * H + unit, sizeof(real) * least(panel, H - unit));
    }
    work.packed = weights, work.biases = biases;
    return run_all(c, forward_thread, work);
}

EXPORTED int backward(const Backward* call) {
    const Backward& c = *call;
    const idx H = c.H, N = c.rows.total();
    expect(c.slots, sizeof(real) * N * SLOTS * H);
    size_t size = 0;
    for (int d = 0; d < BACK_DOTS_COUNT; d++) size += packed_size(H, H * BACK_DOTS[d].count, 1, BACK_DOTS[d].wide);
    Memory packed(sizeof(real) * size);
    if (!packed.at) return 1;
    const real* weights[BACK_DOTS_COUNT + 1];
    real* to = (real*)packed.at;
    for (int d = 0; d < BACK_DOTS_COUNT; d++) {
        const BackDot& dot = BACK_DOTS[d];
        weights[d] = to;
        pack_columns(to, c.weight, dot.blocks, dot.count, dot.wide, H);
        to += packed_size(H, H * dot.count, 1, dot.wide);
    }
    Work work{&c};
    work.packed = weights;
    return run_all(c, backward_thread, work);
}

EXPORTED int gradients(const Gradients* call, const Job* jobs) {
    Work work{call};
    work.jobs = jobs;
    run((int)call->threads, gradient_thread, &work, call->parallel);
    return work.refused;
}
