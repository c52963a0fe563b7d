// Rows taken back through one linearised step of a cell that keeps its units apart but for the maps between them.
//
// Pasted behind vector.h. What the cell is comes as numbers, so one library serves every cell.
//
// R rows of B sequences, H units, P parts. What rows come from are sources: the parts of the new state (0 to P − 1),
// then what the step handed to its inner maps. An item is one row of one sequence, item b·R + r; a thread takes a run
// of items, a block of them at a time through all stages, so that nothing between two products leaves the cache.

#include <stdlib.h>

typedef long long idx;

constexpr int WIDE = 2 * VL;  // columns in a panel of packed weights
constexpr idx BLOCK = 48;     // items that are taken through the stages together
constexpr idx DEEP = 256;     // rows of a panel that are gone through at a time: they stay in the nearest cache
constexpr idx MAKING = 2;     // what it takes to make a row of a Jacobian, in rows multiplied by it; measured

// All fields are eight bytes wide, as compiled.py fills them.

// Source ⊙ table, to map `call` of the stage, or past the maps where that is −1.
struct Term {
    idx source, slot;  // slot: which of the stage's sources it is
    idx call, first;   // first: no term before this one goes to that map
    idx by_step, by_sequence;
    const real* table;  // by step, by sequence, by unit
};

// target = Σ over terms past the maps + Σ over calls W_call' (Σ over its terms)
struct Stage {
    idx target, calls, slots;
    const idx* sources;       // of each slot
    const Term *term, *past;  // those to the maps, in the order of the slots, then those past them
    const Term* end;
    const real* weights;  // panels of calls·H rows, zero past H
};

// Where numbers lie: from one part, row and sequence to the next.
struct By {
    idx part, row, sequence;
};

struct Call {
    idx P, B, H, inner;
    const Stage *stage, *end;
    idx R, step, threads;
    void* parallel;
    const real* rows;  // may be `out`
    By rows_by;
    real* out;
    By out_by;
    real* norms;  // 2-norms of what comes out, or null
    By norms_by;
};

struct Work {
    const Call& call;
    bool refused = false;
};

static inline idx least(idx a, idx b) { return a < b ? a : b; }
static inline idx padded(idx H) { return (H + WIDE - 1) / WIDE * WIDE; }

// To make a sequence's Jacobian, diagonals times maps added up for each source, is less work than to go map by map.
static inline bool by_sequence(const Call& c, const Stage& s) {
    return c.R * s.slots + MAKING * s.calls * s.slots < c.R * s.calls;
}

static inline idx depth(const Call& c, const Stage& s) { return (by_sequence(c, s) ? s.slots : s.calls) * c.H; }

static inline const real* diagonal(const Call& c, const Term& t, idx b) {
    return t.table + c.step * t.by_step + b * t.by_sequence;
}

// f(unit, how many units) for one vector of units after the other.
template <class F>
INLINE void over(idx H, F f) {
    idx u = 0;
    for (; u + VL <= H; u += VL) f(u, VL);
    if (u < H) f(u, (int)(H - u));
}
INLINE V get(const real* from, int n) { return n == VL ? load(from) : load(from, n); }
INLINE void put(real* to, V value, int n) {
    if (n == VL) store(to, value);
    else store(to, value, n);
}

INLINE void copy(real* to, const real* from, idx H) {
    over(H, [=](idx u, int n) { put(to + u, get(from + u, n), n); });
}

// Σ_c D(d_c) W_c for each slot of one sequence, in panels as the weights are.
static void make(const Call& c, const Stage& s, idx b, real* to) {
    for (idx column = 0; column < padded(c.H); column += WIDE) {
        const real* weights = s.weights + column * s.calls * c.H;
        const Term* term = s.term;
        for (idx slot = 0; slot < s.slots; ++slot, to += c.H * WIDE)
            for (bool begun = false; term < s.past && term->slot == slot; ++term, begun = true) {
                const real *d = diagonal(c, *term, b), *w = weights + term->call * c.H * WIDE;
                for (idx u = 0; u < c.H; ++u)
                    for (int n = 0; n < WIDE; n += VL) {
                        real* at = to + u * WIDE + n;
                        V more = load(w + u * WIDE + n) * d[u];
                        store(at, begun ? load(at) + more : more);
                    }
            }
    }
}

template <int ROWS>
static void tile(idx rows, const real* a, const real* w, idx K, idx first, idx last, real* to, idx wide) {
    if constexpr (ROWS > 0) {
        if (rows != ROWS) return tile<ROWS - 1>(rows, a, w, K, first, last, to, wide);
        V acc[ROWS][2];
        const real* row[ROWS];
        for (int r = 0; r < ROWS; ++r) {
            row[r] = a + r * K + first;
            for (int n = 0; n < 2; ++n) acc[r][n] = first ? load(to + r * wide + n * VL) : V{};
        }
        dot<ROWS, 2>(acc, row, w + first * WIDE, last - first);
        for (int r = 0; r < ROWS; ++r)
            for (int n = 0; n < 2; ++n) store(to + r * wide + n * VL, acc[r][n]);
    }
}

// to (rows, wide) = a (rows, K) times panels of K rows.
static void product(idx rows, const real* a, const real* w, idx K, real* to, idx wide) {
    for (idx column = 0; column < wide; column += WIDE, w += K * WIDE)
        for (idx first = 0; first < K; first += DEEP)
            for (idx done = 0, tiles = (rows + TILE / 2 - 1) / (TILE / 2); tiles > 0; --tiles) {
                idx some = (rows - done + tiles - 1) / tiles;
                idx last = least(first + DEEP, K);
                tile<TILE / 2>(some, a + done * K, w, K, first, last, to + done * wide + column, wide);
                done += some;
            }
}

// Some items on their way through the stages.
struct Block {
    const Call& c;
    idx wide;
    real *sources, *made, *given, *jacobian;  // all sources side by side; products, and what they are given
    idx count;
    struct {
        real *out, *norms;
        idx b;
    } at[BLOCK];

    inline void take(idx first, idx last) {
        count = last - first;
        for (idx i = 0, r = first % c.R, b = first / c.R; i < count; ++i) {
            const auto place = [&](const By& by) { return r * by.row + b * by.sequence; };
            at[i] = {c.out + place(c.out_by), c.norms + place(c.norms_by), b};
            for (idx part = 0; part < c.P; ++part)
                copy(source(part, i), c.rows + place(c.rows_by) + part * c.rows_by.part, c.H);
            if (++r == c.R) r = 0, ++b;
        }
    }
    inline idx every() const { return (c.P + c.inner) * c.H; }
    inline real* source(idx which, idx i) const { return sources + i * every() + which * c.H; }

    void run(const Stage& s, const real* jacobian) {
        const idx K = depth(c, s);
        const bool as_they_lie = jacobian && K == every();
        for (idx i = 0; i < count && !as_they_lie; ++i) {
            for (idx slot = 0; jacobian && slot < s.slots; ++slot)
                copy(given + i * K + slot * c.H, source(s.sources[slot], i), c.H);
            if (jacobian) continue;
            for (const Term* t = s.term; t < s.past; ++t) {
                const real *g = source(t->source, i), *d = diagonal(c, *t, at[i].b);
                real* const row = given + i * K + t->call * c.H;
                const bool first = t->first;
                over(c.H, [=](idx u, int n) {
                    V more = get(g + u, n) * get(d + u, n);
                    put(row + u, first ? more : get(row + u, n) + more, n);
                });
            }
        }
        if (K) product(count, as_they_lie ? sources : given, jacobian ? jacobian : s.weights, K, made, wide);
        for (idx i = 0; i < count; ++i) {
            if (s.target < c.P) finish(s, i);
            else copy(source(s.target, i), made + i * wide, c.H);
        }
    }

    // What has passed the maps goes to what came through them, the sum out, its norm with it.
    inline void finish(const Stage& s, idx i) {
        const real* row = s.calls ? made + i * wide : nullptr;
        real* const out = at[i].out + s.target * c.out_by.part;
        V squares{};
        const Term* t = s.past;
        do {
            const bool has = t < s.end, more = t + 1 < s.end, last = t + 2 >= s.end;
            const real *g = has ? source(t->source, i) : nullptr, *d = has ? diagonal(c, *t, at[i].b) : nullptr;
            const real *h = more ? source(t[1].source, i) : nullptr, *e = more ? diagonal(c, t[1], at[i].b) : nullptr;
            over(c.H, [&](idx u, int n) {
                V sum = row ? get(row + u, n) : V{};
                if (has) sum += get(g + u, n) * get(d + u, n);
                if (more) sum += get(h + u, n) * get(e + u, n);
                if (last) squares += sum * sum;
                put(out + u, sum, n);
            });
            row = out;
            t += 2;
        } while (t < s.end);
        if (!c.norms) return;
        real sum = 0;
        for (int n = 0; n < VL; ++n) sum += squares[n];
        at[i].norms[s.target * c.norms_by.part] = LIBM(sqrt)(sum);
    }
};

static void some_items(void* work, int thread) {
    const Call& c = ((Work*)work)->call;
    const idx low = c.R * c.B * thread / c.threads, high = c.R * c.B * (thread + 1) / c.threads, wide = padded(c.H);
    idx deepest = 0, jacobians = 0;
    for (const Stage* s = c.stage; s < c.end; ++s) {
        const idx K = depth(c, *s);
        if (K > deepest) deepest = K;
        if (by_sequence(c, *s)) jacobians += K * wide;
    }
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, sizeof(real) * (BLOCK * (deepest + wide + (c.P + c.inner) * c.H) + jacobians))) {
        ((Work*)work)->refused = true;
        return;
    }
    real *made = (real*)memory, *given = made + BLOCK * wide, *jacobian = given + BLOCK * deepest;
    Block block{c, wide, jacobian + jacobians, made, given, jacobian, 0, {}};
    idx now = -1;  // whose Jacobians were made
    for (idx first = low, last; first < high; first = last) {
        const idx b = first / c.R;
        last = least(first + BLOCK, jacobians ? least(high, (b + 1) * c.R) : high);
        block.take(first, last);
        jacobian = block.jacobian;
        for (const Stage* s = c.stage; s < c.end; ++s) {
            const bool apart = by_sequence(c, *s);
            if (apart && now != b) make(c, *s, b, jacobian);
            block.run(*s, apart ? jacobian : nullptr);
            if (apart) jacobian += depth(c, *s) * wide;
        }
        now = b;
    }
    free(memory);
}

extern "C" __attribute__((visibility("default"))) int wide() { return WIDE; }

// Answers 1 where there was no memory.
extern "C" __attribute__((visibility("default"))) int pull(const Call* call) {
    Work work{*call};
    run((int)call->threads, some_items, &work, call->parallel);
    return work.refused;
}
