"""What a report is about: records of any kind, brought into one shape, with a colour for each cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from throughtime.errors import InputError
from throughtime.records import DataCard, DepthRecord, FlowRecord, Measurement, RunRecord, Study

Records = Study | RunRecord | FlowRecord | DepthRecord | Measurement

# The cells everybody compares keep their colours from report to report; others take the next free one.
HOME = {"elman": 1, "lstm": 0, "gru": 2}
COLOURS = 8


@dataclass(frozen=True)
class Strand:
    """One layer of one trained net, followed through its measurements."""

    label: str
    colour: str
    run: RunRecord | None
    flows: tuple[FlowRecord, ...]  # of one layer, in the order they were measured
    found: bool = False  # measured once, in a model of somebody's own: how far it is trained is not known

    @property
    def before(self) -> FlowRecord | None:
        """The untrained net."""
        return next((flow for flow in self.flows if flow.moment == "before"), None)

    @property
    def now(self) -> FlowRecord:
        """The net as it was last measured."""
        return self.flows[-1]

    @property
    def trained(self) -> bool:
        """Whether the last measurement came after any training."""
        return self.now.moment != "before"

    @property
    def state(self) -> str:
        """How the net was when it was last measured, in a word or three."""
        return "as it is" if self.found else "trained" if self.trained else "untrained"


@dataclass(frozen=True)
class Trained:
    """One run with the name and colour it has on the page."""

    label: str
    colour: str
    run: RunRecord


@dataclass(frozen=True)
class Deep:
    """One feed-forward chain with the name and colour it has on the page."""

    label: str
    colour: str
    record: DepthRecord


@dataclass(frozen=True)
class Subject:
    """Everything a report is drawn from."""

    title: str
    study: Study | None
    runs: tuple[Trained, ...]
    strands: tuple[Strand, ...]
    records: tuple[Records, ...]  # as given, for the diagnosis
    deep: tuple[Deep, ...] = ()
    measurement: Measurement | None = None

    @property
    def found(self) -> bool:
        """Whether this is all about layers of somebody's own model; then nothing is known of how it learns."""
        return not self.runs and bool(self.strands) and all(strand.found for strand in self.strands)

    @property
    def data(self) -> DataCard | None:
        """What the nets were trained on, where that is known."""
        if self.measurement is not None:
            return self.measurement.card
        return self.study.data if self.study else None

    @property
    def origin(self) -> Study | Measurement | None:
        """What says when and with what it was measured."""
        return self.study or self.measurement

    @property
    def colours(self) -> dict[str, str]:
        """Label -> colour."""
        named: tuple[Trained | Strand | Deep, ...] = (*self.runs, *self.strands, *self.deep)
        return {one.label: one.colour for one in named}


def subject(records: Records | Iterable[Records]) -> Subject:
    """Bring a study, a run, a flow or depth record, or several of them but studies, into one shape.

    Raises InputError if there is nothing, something else, or a study beside other records.
    """
    given = (records,) if isinstance(records, Records) else tuple(records)
    if not given:
        raise InputError(
            "a report needs at least one record; give a Study, a RunRecord, a FlowRecord or a DepthRecord."
        )
    for one in given:
        if not isinstance(one, Records):
            raise InputError(
                f"a report is drawn from Study, RunRecord, FlowRecord and DepthRecord, not from {type(one).__name__}."
            )
    measurement = next((one for one in given if isinstance(one, Measurement)), None)
    if measurement is not None:
        if len(given) > 1:
            raise InputError("a measurement is one report; draw it alone, or give its flows beside the others.")
        return _found(measurement)
    study = next((one for one in given if isinstance(one, Study)), None)
    if study is not None and len(given) > 1:
        raise InputError("a study is one report; draw it alone, or give its runs (study.runs) beside the others.")
    runs = study.runs if study is not None else tuple(one for one in given if isinstance(one, RunRecord))
    loose = tuple(one for one in given if isinstance(one, FlowRecord))
    chains = tuple(one for one in given if isinstance(one, DepthRecord))
    labels = _unique([run.label for run in runs])
    # Loose flow records of the same cell and layer are moments of one strand.
    groups: dict[tuple[str, str], list[FlowRecord]] = {}
    for flow in loose:
        groups.setdefault((flow.cell, flow.layer), []).append(flow)
    layers = _named(groups)
    names = _unique([*labels, *layers, *(one.chain for one in chains)])
    cells = [*(run.model.cell for run in runs), *(cell for cell, _ in groups), *("" for _ in chains)]
    colours = _colours(names, cells)
    trained = tuple(Trained(name, colour, run) for name, colour, run in zip(names, colours, runs, strict=False))
    strands = [strand for one in trained for strand in _strands(one)]
    own = zip(names[len(runs) :], colours[len(runs) :], groups.values(), strict=False)
    strands += [Strand(name, colour, None, tuple(flows), found=_is_found(flows)) for name, colour, flows in own]
    below = len(runs) + len(groups)
    deep = [Deep(name, colour, one) for name, colour, one in zip(names[below:], colours[below:], chains, strict=True)]
    title = study.title if study is not None else " and ".join(names[:3]) + (" and others" if len(names) > 3 else "")
    return Subject(title, study, trained, tuple(strands), given, tuple(deep))


def _found(measurement: Measurement) -> Subject:
    """Every layer of a model as it was measured, under the name its model has for it."""
    flows = measurement.flows
    if not flows:
        raise InputError("this measurement holds no flow record, so there is nothing to draw.")
    names = _unique([flow.layer for flow in flows])
    colours = _colours(names, [flow.cell for flow in flows])
    strands = [
        Strand(name, colour, None, (flow,), found=True)
        for name, colour, flow in zip(names, colours, flows, strict=True)
    ]
    return Subject(measurement.title, None, (), tuple(strands), (measurement,), measurement=measurement)


def _strands(one: Trained) -> list[Strand]:
    """A run's measurements by layer."""
    layers = list(dict.fromkeys(flow.layer for flow in one.run.flows))
    return [
        Strand(
            one.label if len(layers) == 1 else _in_layer(one.label, layer),
            one.colour,
            one.run,
            tuple(flow for flow in one.run.flows if flow.layer == layer),
        )
        for layer in layers
    ]


def _named(groups: Mapping[tuple[str, str], list[FlowRecord]]) -> list[str]:
    """The name that somebody's model has for a layer; of nets of ours the cell's, with its layer if need be."""
    plain = [cell for (cell, _), flows in groups.items() if not _is_found(flows)]
    return [
        layer if _is_found(flows) else cell if plain.count(cell) == 1 else _in_layer(cell, layer)
        for (cell, layer), flows in groups.items()
    ]


def _is_found(flows: list[FlowRecord]) -> bool:
    """Whether these are of a layer in somebody's own model, which was found as it is."""
    return all(flow.place is not None and not flow.place.ours for flow in flows)


def _in_layer(name: str, layer: str) -> str:
    """One layer of a stack: `gru (layer 1)`, counted from 0 as everywhere."""
    return f"{name} ({layer.replace('recurrent.', 'layer ')})"


def _unique(names: list[str]) -> list[str]:
    """Names, numbered where one would stand twice."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def _colours(names: list[str], cells: list[str]) -> list[str]:
    """A colour for each name; each its own as long as there are any left."""
    free = [i for i in range(COLOURS) if i not in HOME.values()]
    taken: set[int] = set()
    found = []
    for _, cell in zip(names, cells, strict=True):
        home = HOME.get(cell)
        if home is None or home in taken:
            home = next((i for i in (*free, *range(COLOURS)) if i not in taken), len(taken) % COLOURS)
        taken.add(home)
        found.append(f"c{home}")
    return found
