// The two functions that are called: a run forward and a run back. They answer 0, or 1 where memory was refused.

struct Work {
    const void* call;
    const idx* bounds;
    const real* const* packed;
    const real* const* biases;
    bool refused = false;
};

static void forward_thread(void* given, int thread) {
    Work& work = *(Work*)given;
    const Forward& c = *(const Forward*)work.call;
    StepWalk w(c);
    w.lo = work.bounds[thread], w.hi = work.bounds[thread + 1], w.wide = padded(c.H);
    const idx mine = w.hi - w.lo, H = c.H;
    if (mine <= 0) return;
    Memory pointers(sizeof(void*) * 2 * PARTS * mine), tile(sizeof(real) * (STEP_DOTS_COUNT + 1) * BLOCK * MOST_VECTORS * VL);
    Memory room(sizeof(real) * (STEP_SCRATCH + SOURCES) * mine * w.wide);
    if (!pointers.at || !tile.at || !room.at) { work.refused = true; return; }
    w.packed = work.packed, w.biases = work.biases, w.tile = (real*)tile.at, w.room = (real*)room.at;
    for (int p = 0; p < PARTS; p++) {
        w.past[p] = (const real**)pointers.at + p * mine;
        w.next[p] = (real**)pointers.at + (PARTS + p) * mine;
        for (idx b = w.lo; b < w.hi; b++) w.past[p][b - w.lo] = c.initial[p] + b * H;
    }
    Flush flush;
    for (idx n = 0; n < c.rows.T; n++) {
        const idx t = c.reverse ? c.rows.T - 1 - n : n, top = least(w.hi, c.rows.running(t));
        if (top <= w.lo) continue;
        w.row0 = c.rows.first(t);
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

template <class Call>
static int run_all(const Call& c, Task task, const real* const* packed, const real* const* biases) {
    int threads = (int)(c.threads < 1 ? 1 : c.threads > c.rows.B ? (c.rows.B > 0 ? c.rows.B : 1) : c.threads);
    Memory bounds(sizeof(idx) * (threads + 1));
    if (!bounds.at) return 1;
    share_out(c.rows, threads, (idx*)bounds.at);
    Work work{&c, (const idx*)bounds.at, packed, biases};
    run(threads, task, &work, c.parallel);
    return work.refused;
}

extern "C" __attribute__((visibility("default"))) int forward(const Forward* call) {
    const Forward& c = *call;
    const idx H = c.H;
    size_t size = 0, wide = 0;
    for (int d = 0; d < STEP_DOTS_COUNT; d++) {
        size += packed_size(H, H, STEP_DOTS[d].taps, STEP_DOTS[d].wide);
        wide += packed_size(H, 1, STEP_DOTS[d].taps, STEP_DOTS[d].wide);
    }
    Memory packed(sizeof(real) * (size + wide));
    if (!packed.at) return 1;
    const real *weights[STEP_DOTS_COUNT + 1], *biases[STEP_DOTS_COUNT + 1];
    real *to = (real*)packed.at, *bias = to + size;
    for (int d = 0; d < STEP_DOTS_COUNT; d++) {
        const StepDot& dot = STEP_DOTS[d];
        weights[d] = to, biases[d] = bias;
        pack_rows(to, c.weight, dot.blocks, dot.taps, dot.wide, H);
        to += packed_size(H, H, dot.taps, dot.wide);
        const idx panel = (idx)dot.wide * VL;
        for (idx unit = 0; unit < H; unit += panel)
            for (int tap = 0; tap < dot.taps; tap++, bias += panel)
                if (c.bias && dot.biases[tap] >= 0)
                    memcpy(bias, c.bias + dot.biases[tap] * H + unit, sizeof(real) * least(panel, H - unit));
    }
    return run_all(c, forward_thread, weights, biases);
}

extern "C" __attribute__((visibility("default"))) int backward(const Backward* call) {
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
    return run_all(c, backward_thread, weights, (const real* const*)nullptr);
}
