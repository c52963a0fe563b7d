"""The header in front of generated code: every operator, dot product and thread, against torch and longer numbers."""

from __future__ import annotations

import ctypes
import mmap
import platform
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special

from throughtime.engines.cpu import compiler
from throughtime.engines.trace.program import MASKS, OPERATORS

pytestmark = pytest.mark.compiler

TWO = ("add", "sub", "mul", "div", "pow", "minimum", "maximum", "lt", "le", "gt", "ge", "eq", "ne", "and", "or")
ONE = tuple(name for name in OPERATORS if name not in {*TWO, "where", "number"})
PROT_NONE = 0
SHAPES = [(rows, wide) for rows in range(1, 13) for wide in range(1, 12 // rows + 1)]

# What is not rounded once: how many units in the last place off at most, and the number with more digits.
LONGER: dict[str, tuple[float, Callable]] = {
    "exp": (1.2, np.exp),
    "sigmoid": (2.7, lambda x: 1 / (1 + np.exp(-x))),
    "tanh": (2.7, np.tanh),
    "sqrt": (0.5, np.sqrt),
    "rsqrt": (2, lambda x: 1 / np.sqrt(x)),
    "expm1": (2, np.expm1),
    "log": (2, np.log),
    "log1p": (2, np.log1p),
    "erf": (3, lambda x: special.erf(x.astype(np.float64))),  # not longer for float64
    "sin": (2, np.sin),
    "cos": (2, np.cos),
    "atan": (2, np.arctan),
    "pow": (2, np.power),
}


def source(double: bool) -> str:
    written = [f"typedef {'double' if double else 'float'} real;", f"#define REAL_IS_DOUBLE {int(double)}"]
    written.append(resources.files("throughtime.engines.cpu").joinpath("vector.h").read_text(encoding="utf-8"))
    written.append("""
#define API extern "C" __attribute__((visibility("default")))
API int lanes() { return VL; }
API int tile() { return TILE; }
API void copy(const real* x, real* y, int n) { store(y, load(x, n), n); }
API void copy_all(const real* x, real* y, int n) { store(y, load(x, n)); }
API real halved(real x, int flush) {
    volatile real y = x;
    if (flush) { Flush now; y = y / 2; } else y = y / 2;
    return y;
}
API void op_number(const real* x, real* y, long n) {
    for (long i = 0; i < n; i += VL) store(y + i, v_number(v_gt(load(x + i), V{})));
}
API void op_where(const real* m, const real* a, const real* b, real* y, long n) {
    for (long i = 0; i < n; i += VL) store(y + i, v_where(v_gt(load(m + i), V{}), load(a + i), load(b + i)));
}
static void once(void* work, int thread) { __atomic_fetch_add((int*)work + thread, 1, __ATOMIC_RELAXED); }
static void alone(void (*task)(void*), void* data, unsigned, unsigned) { task(data); }
static void each(void (*task)(void*), void* data, unsigned threads, unsigned) { while (threads--) task(data); }
API void run_all(int threads, int* count, int how) {
    run(threads, once, count, how == 0 ? nullptr : how == 1 ? (void*)alone : (void*)each);
}
""")
    mask, number = "v_gt({}, V{{}})", "{}"
    for name in (*ONE, *TWO):
        given = [(mask if name in {"and", "or", "not"} else number).format(f"load({v} + i)") for v in "ab"]
        called = f"v_{name}({', '.join(given[: 1 + (name in TWO)])})"
        made = f"v_number({called})" if name in MASKS else called
        both = "const real* a, const real* b" if name in TWO else "const real* a"
        written.append(f"API void op_{name}({both}, real* y, long n) {{")
        written.append(f"    for (long i = 0; i < n; i += VL) store(y + i, {made});\n}}")
    for rows, wide in SHAPES:
        written.append(f"API void dot_{rows}_{wide}(real* sums, const real* const* a, const real* w, long K) {{")
        written.append(f"    V acc[{rows}][{wide}];")
        written.append(
            f"    for (int i = 0; i < {rows * wide}; ++i) acc[i / {wide}][i % {wide}] = load(sums + i * VL);"
        )
        written.append(f"    dot<{rows}, {wide}>(acc, a, w, K);")
        written.append(
            f"    for (int i = 0; i < {rows * wide}; ++i) store(sums + i * VL, acc[i / {wide}][i % {wide}]);\n}}"
        )
    return "\n".join(written) + "\n"


@dataclass(frozen=True)
class Built:
    library: ctypes.CDLL
    dtype: type[np.floating]
    lanes: int

    def call(self, name: str, *given: np.ndarray) -> np.ndarray:
        """The operator on numbers, as many as there are: the last vector is filled up."""
        n = given[0].size
        filled = [np.concatenate([x, np.ones(-n % self.lanes)]).astype(self.dtype) for x in given]
        out = np.full_like(filled[0], -77)
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (*filled, out)]
        getattr(self.library, f"op_{name}")(*pointers, ctypes.c_long(out.size))
        return out[:n]


MACHINES = ["native"] + ["x86-64"] * (platform.machine() in {"x86_64", "AMD64"})  # the second: no FMA, 16 bytes


@pytest.fixture(scope="module", params=[(m, d) for m in MACHINES for d in ("float32", "float64")], ids="-".join)
def built(request, tmp_path_factory) -> Built:
    machine, dtype = request.param
    folder: Path = tmp_path_factory.mktemp("vector")
    (folder / "vector.cpp").write_text(source(dtype == "float64"), encoding="utf-8")
    flags = [*compiler.FLAGS, *(compiler._NATIVE if machine == "native" else [f"-march={machine}"])]
    flags += ["-Wall", "-Wextra", "-Wno-unused-function", "-Werror"]
    command = [*shlex.split(compiler.compiler() or ""), *flags, "vector.cpp", "-o", "vector.so"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "vector.so"))
    return Built(library, getattr(np, dtype), library.lanes())


def wild(dtype: type[np.floating], count: int = 20_000, seed: int = 0) -> np.ndarray:
    """Numbers of every magnitude, and all that is special, in an order of their own."""
    rng = np.random.default_rng(seed)
    info = np.finfo(dtype)
    marks = [0.0, 1.0, 0.5, 2.0, float(info.tiny), float(info.max), 87.0, 88.5, 89.0, 104.0, 708.0, 709.7, 710.0, 1e30]
    special_ = [sign * x for x in (*marks, np.inf) for sign in (1, -1)] + [np.nan]
    spread = 10 ** rng.uniform(np.log10(info.tiny), np.log10(info.max) - 0.1, count) * rng.choice([-1, 1], count)
    usual = [rng.uniform(-x, x, count) for x in (0.4, 3.0, 20.0, 90.0 if dtype is np.float32 else 720.0)]
    numbers = np.concatenate([spread, *usual, rng.choice(special_, 2000)])
    with np.errstate(over="ignore"):
        return rng.permutation(numbers).astype(dtype)


@pytest.mark.parametrize("name", [*ONE, *TWO])
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_operator(built: Built, name: str) -> None:
    given = [wild(built.dtype, seed=i) for i in range(1 + (name in TWO))]
    if name in TWO:
        given[1][::7] = given[0][::7]
    if name == "pow":  # most wild powers are 0 or infinite
        more = np.random.default_rng(2).uniform(0, 9, (2, 5000))
        given = [np.concatenate([x, y]) for x, y in zip(given, more, strict=True)]
        given = [x.astype(built.dtype) for x in given]
    found = built.call(name, *given)
    if name in LONGER:
        ulps, longer = LONGER[name]
        exact = longer(*(x.astype(np.longdouble) for x in given))
        expected = exact.astype(built.dtype)
    else:
        asked = [torch.from_numpy(x) for x in given]
        ulps, expected = 0, OPERATORS[name](*(x > 0 for x in asked) if name in {"and", "or", "not"} else asked).numpy()
        expected = exact = expected.astype(built.dtype)
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    tiny = np.finfo(built.dtype).tiny
    ordinary = np.isfinite(expected) & (np.abs(expected) >= tiny)
    infinite = np.isinf(expected)
    if name in LONGER:  # the last number before infinity may go either way
        infinite &= np.isinf((exact * (1 - 2 * np.finfo(built.dtype).eps)).astype(built.dtype))
        ordinary &= np.isfinite(found) | (np.abs(expected) < np.finfo(built.dtype).max * 0.999)
    assert np.array_equal(found[infinite], expected[infinite])
    small = np.abs(expected) < tiny
    if ulps:
        assert (np.abs(found[small] - exact[small]) <= tiny).all()
    else:
        assert np.array_equal(found[small], expected[small])
    unit = np.spacing(np.abs(expected[ordinary]))
    off = np.abs(found[ordinary].astype(np.longdouble) - exact[ordinary]) / unit
    worst = int(off.argmax())
    assert off[worst] <= ulps, f"{name}({given[0][ordinary][worst]!r}) is {float(off[worst]):.2f} units off"


def test_masks_choose_and_count(built: Built) -> None:
    m, a, b = (wild(built.dtype, 300, seed) for seed in range(3))
    assert np.array_equal(built.call("where", m, a, b), np.where(m > 0, a, b), equal_nan=True)
    assert np.array_equal(built.call("number", m), (m > 0).astype(built.dtype))


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_never_beyond_its_bounds(built: Built, name: str) -> None:
    found = built.call(name, np.linspace(-50, 50, 200_001).astype(built.dtype))
    assert found.max() == 1
    assert found.min() >= (0 if name == "sigmoid" else -1)


def test_loads_and_stores_only_what_it_is_asked_for(built: Built) -> None:
    """The last numbers of a page, behind which reading or writing ends the process."""
    page, size = mmap.PAGESIZE, np.dtype(built.dtype).itemsize
    libc = ctypes.CDLL(None, use_errno=True)
    places = []
    for _ in range(2):
        memory = mmap.mmap(-1, 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert libc.mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(page), PROT_NONE) == 0
        places.append((memory, start, np.frombuffer(memory, built.dtype, page // size)))
    (_, x_at, x), (_, y_at, y) = places
    for n in range(built.lanes + 1):
        x[:], y[:] = np.arange(1, x.size + 1), -5
        arguments = (ctypes.c_void_p(x_at + page - n * size), ctypes.c_void_p(y_at + page - n * size), n)
        built.library.copy(*arguments)
        assert np.array_equal(y[y.size - n :], x[x.size - n :])
        assert (y[: y.size - n] == -5).all()
        y[:] = -5  # what is behind the first n stays
        built.library.copy(arguments[0], ctypes.c_void_p(y_at), n)
        assert np.array_equal(y[:n], x[x.size - n :])
        assert (y[n:] == -5).all()
        built.library.copy_all(arguments[0], ctypes.c_void_p(y_at), n)  # and what was not loaded is 0
        assert np.array_equal(y[:n], x[x.size - n :])
        assert (y[n : built.lanes] == 0).all()
        assert (y[built.lanes :] == -5).all()


@pytest.mark.parametrize(("rows", "wide"), SHAPES)
def test_dot(built: Built, rows: int, wide: int) -> None:
    """Whole numbers small enough that every order of summing gives the same."""
    rng = np.random.default_rng(rows * 100 + wide)
    for K in (0, 1, 3, 4, 7, 130):
        a, w, sums = (rng.integers(-9, 10, s).astype(built.dtype) for s in (
            (rows, K + 3), (K, wide * built.lanes), (rows, wide * built.lanes)
        ))  # fmt: skip
        expected = sums + a[:, :K] @ w
        pointers = (ctypes.c_void_p * rows)(*(row.ctypes.data for row in a))
        dot = getattr(built.library, f"dot_{rows}_{wide}")
        dot(ctypes.c_void_p(sums.ctypes.data), pointers, ctypes.c_void_p(w.ctypes.data), ctypes.c_long(K))
        assert np.array_equal(sums, expected)


@pytest.mark.parametrize("how", ["threads of its own", "a runtime that gives one", "a runtime that gives all"])
@pytest.mark.parametrize("threads", [1, 2, 5, 100])
def test_every_thread_number_once(built: Built, threads: int, how: str) -> None:
    count = np.zeros(threads, np.int32)
    kinds = ["threads of its own", "a runtime that gives one", "a runtime that gives all"]
    built.library.run_all(threads, ctypes.c_void_p(count.ctypes.data), kinds.index(how))
    assert (count == 1).all()


def test_flush_holds_for_its_scope(built: Built) -> None:
    halved = built.library.halved
    halved.restype = ctypes.c_double if built.dtype is np.float64 else ctypes.c_float
    halved.argtypes = [halved.restype, ctypes.c_int]
    tiny = float(np.finfo(built.dtype).tiny)
    assert [halved(tiny, flush) for flush in (0, 1, 0)] == [tiny / 2, 0, tiny / 2]
