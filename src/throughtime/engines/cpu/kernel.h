// The functions that are called: a run forward, a run back, and the gradients of weights after it. They answer 0, or 1
// where memory was refused.

#define EXPORTED extern "C" __attribute__((visibility("default")))

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

// One thread's share of the gradients of weights: panels of columns of the slots, each for all K and all rows.
// The rows are gone through a slice at a time, which is turned round once (b) or brought together (slots).
static void gradient_thread(void* given, int thread) {
    Work& work = *(Work*)given;
    const Gradients& c = *(const Gradients*)work.call;
    const int threads = (int)c.threads;
    const idx wide = c.wide;
    Flush flush;
    for (idx j = 0; j < c.jobs; j++) {
        const Job& job = work.jobs[j];
        const idx panels = (job.M + PANEL - 1) / PANEL;
        const idx low = panels * thread / threads, high = panels * (thread + 1) / threads;
        const idx K = job.out ? job.K : 0;   // and one more for the sums: a number of b that is always 1
        if (low >= high) continue;
        Memory sums(sizeof(real) * (high - low) * (K + 1) * PANEL), turned(sizeof(real) * (K + 1) * DEEP);
        Memory slice(sizeof(real) * DEEP * PANEL);
        if (!sums.at || !turned.at || !slice.at) { work.refused = true; return; }
        real *b = (real*)turned.at, *w = (real*)slice.at;
        for (idx n = 0; n < DEEP; n++) b[K * DEEP + n] = 1;
        for (int piece = 0; piece < 2; piece++)
            for (idx start = 0; start < job.rows[piece]; start += DEEP) {
                const idx deep = least(DEEP, job.rows[piece] - start);
                for (idx n = 0; n < deep; n++) {
                    const real* from = job.b[piece] + (start + n) * job.wide[piece];
                    for (idx k = 0; k < K; k++) b[k * DEEP + n] = from[k];
                }
                for (idx panel = low; panel < high; panel++) {
                    const idx m = panel * PANEL;
                    const real* from = c.slots + (job.first[piece] + start) * wide + job.slot + m;
                    for (idx n = 0; n < deep; n++, from += wide) {
                        const idx there = least(PANEL, job.M - m);
                        if (there == PANEL)
                            for (int v = 0; v < MOST_VECTORS; v++) store(w + n * PANEL + v * VL, load(from + v * VL));
                        else
                            memcpy(w + n * PANEL, from, sizeof(real) * there);
                    }
                    real* tile = (real*)sums.at + (panel - low) * (K + 1) * PANEL;
                    for (idx k = 0; k <= K; k += BLOCK) {
                        const idx many = least(BLOCK, K + 1 - k);
                        const real* a[BLOCK];
                        for (idx r = 0; r < many; r++) a[r] = b + (k + r) * DEEP;
                        product<MOST_VECTORS>(many, tile + k * PANEL, a, w, deep);
                    }
                }
            }
        for (idx panel = low; panel < high; panel++) {
            const real* tile = (const real*)sums.at + (panel - low) * (K + 1) * PANEL;
            const idx m = panel * PANEL, there = least(PANEL, job.M - m);
            for (idx lane = 0; lane < there; lane++)
                for (idx k = 0; k < K; k++) job.out[(m + lane) * K + k] = tile[k * PANEL + lane];
            if (job.sums)
                for (idx lane = 0; lane < there; lane++) job.sums[m + lane] = tile[K * PANEL + lane];
        }
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
    const idx H = c.H;
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
    const idx H = c.H;
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
