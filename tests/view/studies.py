"""Synthetic studies from plausible numbers: what the report is tested on, without training anything."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from throughtime.records import (
    BoundRecord,
    CarouselRecord,
    DataCard,
    DepthRecord,
    Evaluation,
    Example,
    FlowRecord,
    GateStats,
    LagProfile,
    LyapunovRecord,
    MemoryGate,
    ModelCard,
    ParameterCredit,
    PathRecord,
    Place,
    RunRecord,
    Settings,
    SingularRecord,
    Study,
    Update,
)

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\u2028{}"
TEXT = (
    "the first half hour is slow and I nearly left but then the story finds its feet the two leads are wonderful "
    "together and by the end I did not want it to stop a warm funny and generous film"
)
REVIEW = TEXT.split()


def profile(T: int, decay: float, *, bump: float = 0.0, spread: float = 0.3) -> LagProfile:
    """A gradient that falls by `decay` decades a step."""
    lags = np.arange(T)
    median = -decay * lags + bump * np.sin(lags / 5) * (lags > 0)
    wide = spread * np.sqrt(lags / max(1, T))
    return LagProfile(lags, median, median - wide, median + wide, (T - lags) * 16)


def pairs(T: int, decay: float, *, last_only: bool = False) -> np.ndarray:
    t, k = np.mgrid[0:T, 0:T]
    found = np.where(k <= t, -1.5 + 0.4 * np.cos(t / 4) - decay * (t - k) + 0.3 * np.sin(k / 3), -np.inf)
    if last_only:
        found[:-1] = -np.inf
    return found


def gate(T: int, H: int, middle: float, swing: float, rng: np.random.Generator) -> GateStats:
    mean = np.clip(middle + swing * np.sin(np.arange(T) / 6) + 0.02 * rng.standard_normal(T), -1, 1)
    low = np.clip(0.3 - 0.4 * mean, 0, 1)
    return GateStats(mean, low, np.clip(mean - 0.5, 0, 1), np.clip(middle + 0.2 * rng.standard_normal(H), -1, 1))


GATES = {
    "elman": {},
    "lstm": {"input": (0.35, 0.1), "forget": (0.94, 0.03), "candidate": (0.05, 0.3), "output": (0.5, 0.15)},
    "gru": {"reset": (0.55, 0.1), "update": (0.9, 0.05), "candidate": (0.0, 0.25)},
}
PORTS = {
    "elman": {"recurrent": -0.35},
    "lstm": {"carousel": -0.03, "input": -1.6, "forget": -1.2, "candidate": -0.9, "output": -1.1},
    "gru": {"carousel": -0.05, "reset": -1.9, "update": -1.1, "candidate": -0.7},
}
PARTS = {"elman": ("h",), "lstm": ("s", "h"), "gru": ("h",)}
DECAY = {
    ("elman", "before"): 0.31,
    ("elman", "after"): 0.22,
    ("lstm", "before"): 0.12,
    ("lstm", "after"): 0.012,
    ("gru", "before"): 0.14,
    ("gru", "after"): 0.031,
}


def example(words: tuple[str, ...], cell: str, rng: np.random.Generator) -> Example:
    T = len(words)
    k = np.arange(T)
    memory = -DECAY[cell, "after"] * (T - 1 - k) + 0.5 * rng.standard_normal(T)
    memory[T // 3] = -np.inf
    blame = memory - 1.5
    blame[0] = np.nan
    gates = {name: np.clip(m + 0.25 * rng.standard_normal(T), -1 if name == "candidate" else 0, 1)
             for name, (m, _) in GATES[cell].items()}  # fmt: skip
    state = {part: np.abs(0.2 + 0.02 * k + 0.05 * rng.standard_normal(T)) for part in PARTS[cell]}
    return Example(words, "positive", "positive" if cell != "elman" else "negative", gates, state, memory, blame)


def weights(T: int, decay: float, names: tuple[str, ...] = ("weight_ih", "weight_hh", "bias_hh")) -> ParameterCredit:
    """dL/dθ whose terms fall by `decay` decades a lag and all point one way."""
    lags = np.unique([*range(min(T, 65)), *np.geomspace(min(T, 65), T, 20).astype(int) - 1])
    terms = {name: 0.3 * n - decay * (1 + 0.2 * n) * lags + 0.05 * np.sin(lags) for n, name in enumerate(names)}
    sums = {name: np.log10(np.cumsum(10.0 ** each[::-1])[::-1]) for name, each in terms.items()}
    rest = {name: np.append(each[1:], -np.inf) - each[0] for name, each in sums.items()}
    return ParameterCredit(
        "made", lags, terms, rest, {n: float(each[0]) for n, each in sums.items()}, 4, "float64", 0.4
    )


def paths(T: int, decay: float, ports: tuple[str, ...], round_: str = "carousel") -> PathRecord:
    """A gradient that goes round one port, if it is there, and comes to nothing along every other one alone."""
    lags = np.arange(T)
    alone = {port: -(decay * 1.05 if port == round_ else 0.9 + 0.2 * n) * lags for n, port in enumerate(ports)}
    without = {port: -(1.1 if port == round_ else decay * 1.02) * lags for port in ports}
    left = np.stack([alone[ports[0]], *(np.where(lags >= m, -decay * lags - 0.5 * m, -np.inf) for m in (1, 2, 3))])
    there = round_ in ports
    return PathRecord(lags, -decay * lags, alone, without, round_ if there else None, left if there else None,
                      np.minimum(T - lags, 16) * 8, "float64", 0.5)  # fmt: skip


def same_paths(lags: np.ndarray, values: np.ndarray, ports: tuple[str, ...]) -> PathRecord:
    """The same numbers along all of them."""
    each = dict.fromkeys(ports, values)
    return PathRecord(lags, values, each, each, ports[0], np.stack([values] * 4), np.full(len(lags), 0), "float64", 0.1)


def carousel(T: int, decay: float, looped: bool) -> CarouselRecord:
    lags = np.arange(T)
    kept = -decay * lags
    loop = (-0.8 * lags, -0.5 * lags) if looped else (None, None)
    return CarouselRecord(lags, kept - 0.4, *loop, kept, kept, np.minimum(T - lags, 16) * 8, "float64", 0.3)


def exponents(S: int, largest: float) -> LyapunovRecord:
    """A spectrum that starts at `largest` and loses its last tenth altogether."""
    found = largest - 4 * np.linspace(0, 1, S) ** 2
    found[S - S // 10 :] = -np.inf
    error = np.where(np.isfinite(found), 0.01, np.nan)
    return LyapunovRecord("made", found, error, largest + 0.004, 16, 3, 48, 4, "float64", 0.4)


def stretching(S: int, T: int, largest: float) -> SingularRecord:
    """Singular values that fall with the lag at the rates of `exponents`."""
    lags = np.unique(np.geomspace(1, T - 1, 8).astype(int))
    values = np.outer(lags, exponents(S, largest).exponents) / math.log(10) + 0.2
    direction = 0.6 ** np.arange(S)
    return SingularRecord("made", lags, values, direction, direction[::-1], 2, "float64", 0.4)


def flow(
    cell: str, moment: str, update: int, *, T: int = 64, H: int = 32, words: bool = False, last_only: bool = False,
    decay: float | None = None,
) -> FlowRecord:  # fmt: skip
    rng = np.random.default_rng(update + T)
    fall = DECAY[cell, "before" if moment == "before" else "after"] if decay is None else decay
    lags = profile(T, fall, bump=0.05)
    k = np.arange(T)
    adjoint = -1.2 - fall * (T - 1 - k) * (0.9 if last_only else 0.2) + 0.05 * np.sin(k)
    direct = np.full(T, -1.3) + 0.02 * np.cos(k)
    if last_only:
        direct[:-1] = -np.inf
    bound = BoundRecord(k, -fall * k * 0.85 + 0.2, -fall * k * 0.5 + 0.3, 0.05 * k + 0.4, 0.2 * k + 0.5)
    if cell != "elman":
        bound = dataclasses.replace(bound, local=None, globally=None)
    parts = PARTS[cell]
    steps = tuple(REVIEW) if words else tuple(f"{v:.2f}" for v in rng.random(T))
    return FlowRecord(
        cell=cell, layer="recurrent", moment=moment, update=update, engine="native", dtype="float64", seconds=1.3,
        T=T, B=32, H=H, parts=parts, derivative="boundary", loss=0.7, direct=direct, adjoint=adjoint, lags=lags,
        part_lags={p: profile(T, fall * (1 + i), bump=0.1) for i, p in enumerate(parts)} if len(parts) > 1 else {},
        blame=pairs(T, fall, last_only=last_only), bounds=bound,
        ports={name: np.full(T, share) + 0.1 * rng.standard_normal(T) for name, share in PORTS[cell].items()},
        step_gain=0.1 + 0.1 * np.sin(k / 3),
        gates={name: gate(T, H, m, s, rng) for name, (m, s) in GATES[cell].items()},
        saturation=dict.fromkeys(GATES[cell], 0.1),
        parameters=weights(T, fall), memory=profile(T, 0.8 * fall, bump=0.1),
        paths=paths(T, fall, tuple(PORTS[cell])),
        carousel=carousel(T, fall, "output" in PORTS[cell]) if "carousel" in PORTS[cell] else None,
        lyapunov=exponents(H * len(parts), -2 * fall), singular=stretching(H * len(parts), T, -2 * fall),
        examples=tuple(example(steps, cell, rng) for _ in range(2)),
        left_out=("Transport of single units: asked for medians only.",),
        place=Place("recurrent", cell, ours=True, memory=tuple(
            MemoryGate(name, 1, "bias_ih_l0", (0, H)) for name in ("forget", "update") if name in GATES[cell]
        )),
    )  # fmt: skip


def updates(count: int, cell: str, *, clip: float | None = 1.0) -> tuple[Update, ...]:
    rng = np.random.default_rng(count)
    floor = {"elman": 1.2, "lstm": 0.08, "gru": 0.1}[cell]
    fall = np.exp(-np.arange(count) / (0.15 * count + 1) + 0.1 * rng.standard_normal(count))
    loss = floor + (2.3 - floor) * fall
    size = {"elman": 2.2, "lstm": 0.4, "gru": 0.6}[cell]
    norm = size * np.exp(0.5 * rng.standard_normal(count))
    return tuple(
        Update(
            update=i + 1, epoch=i // 50, samples=32 * (i % 50 + 1), loss=float(loss[i]), grad_norm=float(norm[i]),
            clipped=clip is not None and bool(norm[i] > clip), threshold=clip, rate=3e-3, seconds=0.02,
        )
        for i in range(count)
    )  # fmt: skip


def run(cell: str, *, T: int = 64, count: int = 800, words: bool = False, last_only: bool = False) -> RunRecord:
    score = {"elman": 0.42, "lstm": 0.972, "gru": 0.966}[cell]
    moments = (("before", 0), ("during", count // 3), ("during", 2 * count // 3), ("after", count))
    evaluations = tuple(
        Evaluation(
            u, u // 50, "valid", 2.3 - 2 * score * u / count, score - score * math.exp(-6 * u / count), u == count
        )
        for u in range(count // 10, count + 1, count // 10)
    )
    return RunRecord(
        label=cell,
        model=ModelCard(cell, {"nonlinearity": "tanh"} if cell == "elman" else {}, 1, 32, False, None, 0.0, "last",
                        "native", 5000),
        settings=Settings(epochs=16),
        seed=0,
        updates=updates(count, cell),
        evaluations=evaluations,
        flows=tuple(flow(cell, m, u, T=T, words=words, last_only=last_only) for m, u in moments),
        stopped="all 16 epochs were done",
        seconds=48.0,
        test=Evaluation(count, 16, "test", 0.1, score - 0.004),
    )  # fmt: skip


def card(**changes: object) -> DataCard:
    plain = DataCard(
        name="digits", kind="classification", step="pixel", tokens=False, inputs=1, outputs=10,
        labels=tuple("0123456789"), metric="accuracy", baseline=0.101, baseline_is="always the commonest label",
        lag=None, sizes={"train": 1257, "valid": 270, "test": 270}, lengths=(64, 64, 64), digest="9f2c" * 16,
        notes=("Pixels were divided by 16.",),
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def study(*runs: RunRecord, data: DataCard | None = None, title: str = "Digits, pixel by pixel") -> Study:
    return Study(
        title=title,
        command="throughtime compare digits --cells rnn,lstm,gru --seed 0",
        created="2025-01-31T12:00:00Z",
        versions={"throughtime": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        machine="2 cores, Linux, x86_64",
        data=data or card(),
        runs=runs,
    )


def digits(last_only: bool = False) -> Study:
    """The typical one: three cells on 64 pixels."""
    return study(*(run(cell, count=1500, last_only=last_only) for cell in ("elman", "lstm", "gru")))


def reviews() -> Study:
    """One with words, and a task whose lag is known."""
    T = len(REVIEW)
    data = card(name="reviews.csv", step="word", tokens=True, inputs=8000, outputs=2, labels=("negative", "positive"),
                baseline=0.5, lag=20, lengths=(12, 180, 400))  # fmt: skip
    return study(*(run(cell, T=T, count=400, words=True) for cell in ("elman", "lstm", "gru")), data=data,
                 title="Film reviews")  # fmt: skip


def alone() -> Study:
    """A single cell."""
    return study(run("lstm", count=200), title="One LSTM")


def hostile() -> Study:
    """Every text a person could have given holds markup."""
    one = run("lstm", T=12, count=40)
    steps = (HOSTILE, "=1+2", '"quoted"', "</style>", "<!--", "a\u2029b") * 2
    strip = dataclasses.replace(example(steps, "lstm", np.random.default_rng(0)), truth=HOSTILE, answer=HOSTILE)
    flows = tuple(
        dataclasses.replace(f, cell=HOSTILE, layer=HOSTILE, engine=HOSTILE, dtype=HOSTILE, examples=(strip,),
                            left_out=(HOSTILE,), gates={HOSTILE: f.gates["forget"]}, ports={HOSTILE: f.ports["forget"]},
                            part_lags={HOSTILE: f.lags, "h": f.lags}, saturation={HOSTILE: 0.1},
                            parameters=weights(12, 0.2, (HOSTILE, "weight_hh")),
                            paths=paths(12, 0.1, (HOSTILE, "h"), HOSTILE))
        for f in one.flows
    )  # fmt: skip
    model = dataclasses.replace(one.model, cell=HOSTILE, options={HOSTILE: HOSTILE}, engine=HOSTILE)
    bad = dataclasses.replace(one, label=HOSTILE, flows=flows, model=model, stopped=HOSTILE)
    data = card(name=HOSTILE, step=HOSTILE, labels=(HOSTILE,), baseline_is=HOSTILE, digest=HOSTILE, notes=(HOSTILE,))
    whole = study(bad, data=data, title=HOSTILE)
    return dataclasses.replace(whole, command=HOSTILE, created=HOSTILE, machine=HOSTILE, versions={HOSTILE: HOSTILE})


def unmeasured() -> Study:
    """Trained, but no gradient flow, no evaluation."""
    bare = dataclasses.replace(run("gru", count=30), flows=(), evaluations=(), test=None)
    return study(bare, title="Nothing measured")


def blank() -> Study:
    """Measured, but every number is missing."""
    one = run("lstm", T=10, count=20)
    none = np.full(10, np.nan)
    lags = LagProfile(np.arange(10), none, none, none, np.zeros(10, int))
    gone = dataclasses.replace(
        one.flows[-1], lags=lags, part_lags={}, blame=np.full((10, 10), np.nan), bounds=None, direct=none, adjoint=none,
        step_gain=none, ports={"carousel": none}, gates={}, examples=(), saturation={}, memory=lags,
        parameters=ParameterCredit("lstm", np.arange(10), {"w": none}, {"w": none}, {"w": math.nan}, 4, "float64", 0.1),
        paths=same_paths(np.arange(10), none, ("carousel", "output")),
        carousel=CarouselRecord(np.arange(10), *[none] * 5, np.zeros(10, int), "float64", 0.1),
        lyapunov=LyapunovRecord("lstm", none, none, math.nan, 2, 1, 8, 1, "float64", 0.1),
        singular=SingularRecord("lstm", np.array([1, 9]), np.full((2, 64), np.nan), *[np.full(64, np.nan)] * 2, 1,
                                "float64", 0.1),
    )  # fmt: skip
    return study(dataclasses.replace(one, flows=(gone,)), title="Only gaps")


def zeros() -> Study:
    """A net through which no gradient flows at all."""
    one = run("elman", T=10, count=20)
    nothing = np.full(10, -np.inf)
    start = np.where(np.arange(10) == 0, 0.0, -np.inf)
    lags = LagProfile(np.arange(10), start, start, start, np.full(10, 16))
    dead = dataclasses.replace(
        one.flows[-1], lags=lags, blame=np.full((10, 10), -np.inf), direct=nothing, adjoint=nothing, step_gain=nothing,
        ports={"recurrent": nothing}, bounds=BoundRecord(np.arange(10), start, start, start, start), examples=(),
        memory=lags, parameters=ParameterCredit(
            "elman", np.arange(10), {"weight_hh": nothing}, {"weight_hh": np.full(10, np.nan)}, {"weight_hh": -np.inf},
            4, "float64", 0.1),
        paths=same_paths(np.arange(10), start, ("carousel", "output")),
        carousel=CarouselRecord(np.arange(10), nothing, start, start, start, start, np.full(10, 16), "float64", 0.1),
        lyapunov=LyapunovRecord("elman", nothing, np.full(10, np.nan), math.nan, 2, 1, 8, 1, "float64", 0.1),
        singular=SingularRecord("elman", np.array([1, 9]), np.full((2, 32), -np.inf), np.eye(32)[0], np.eye(32)[1], 1,
                                "float64", 0.1),
    )  # fmt: skip
    return study(dataclasses.replace(one, flows=(dead,)), title="All zero")


def broken() -> Study:
    """Losses and norms that are no numbers, one update only."""
    one = run("lstm", T=8, count=40)
    bad = list(one.updates)
    bad[20] = dataclasses.replace(bad[20], loss=math.nan, grad_norm=math.inf)
    bad[21] = dataclasses.replace(bad[21], loss=math.inf, grad_norm=math.nan)
    single = dataclasses.replace(run("gru", T=8, count=40), updates=updates(1, "gru"), label="gru, one update")
    worse = Evaluation(20, 0, "valid", math.nan, math.nan)
    noisy = dataclasses.replace(one, updates=tuple(bad), evaluations=(*one.evaluations, worse), test=worse)
    return study(noisy, single, title="Broken numbers")


def chain(name: str = "tanh", N: int = 20, decay: float = 0.4) -> DepthRecord:
    """A feed-forward chain through which the gradient falls by `decay` decades a layer."""
    back = np.arange(N - 1, -1, -1)
    bound = np.where(back > N // 2, np.nan, 0.2 * back)
    weights = np.where(back == 1, np.nan, -decay * back - 0.5 + 0.1 * np.cos(back))
    layers = tuple(f"{2 * i} Linear + Tanh" for i in range(N))
    return DepthRecord(
        layers, -decay * back - 1.0, weights, -0.8 * decay * back, 0.1 * back, bound, samples=32, loss=0.7,
        dtype="float64", seconds=0.2, chain=name, left_out=("Some Jacobians: wide.",),
    )  # fmt: skip


ALL = {
    "digits": digits, "last": lambda: digits(last_only=True), "reviews": reviews, "alone": alone, "hostile": hostile,
    "unmeasured": unmeasured, "blank": blank, "zeros": zeros, "broken": broken,
}  # fmt: skip
