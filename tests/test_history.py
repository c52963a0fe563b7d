"""The history: whole lines or none, and what a resumed run supersedes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughtime import history
from throughtime.errors import InputError
from throughtime.records import Evaluation, Update


def update(n: int, loss: float = 0.5) -> Update:
    return Update(n, n // 4, 8 * n, loss, 1.25, n % 2 == 0, 1.0, 3e-3, 0.01)


def evaluation(n: int, score: float = 0.25) -> Evaluation:
    return Evaluation(n, n // 4, "valid", 0.1, score, best=True)


def written(path: Path, *events: Update | Evaluation) -> None:
    with history.Writer(path) as writer:
        for event in events:
            writer.add(event)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    written(path, update(1, 1 / 3), update(2, math.inf), evaluation(2, 0.1 + 0.2))
    past = history.read(path)
    assert past == history.Past((update(1, 1 / 3), update(2, math.inf)), (evaluation(2, 0.1 + 0.2),))


def test_an_absent_history_is_empty(tmp_path: Path) -> None:
    assert history.read(tmp_path / "events.jsonl") == history.Past((), ())


def test_a_history_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        history.read(tmp_path)


def test_later_lines_are_superseded_by_going_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    written(path, update(1), update(2), evaluation(2), update(3), evaluation(3))
    with history.Writer(path) as writer:
        writer.resume(2)
        writer.add(update(3, 0.75))
    past = history.read(path)
    assert past.updates == (update(1), update(2), update(3, 0.75))
    assert past.evaluations == (evaluation(2),)
    assert past.resumed == (2,)


@given(cut=st.integers(0, 400))
def test_wherever_a_crash_tears_the_file_whole_lines_stay(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("torn") / "events.jsonl"
    events = [update(n) for n in range(1, 4)]
    written(path, *events)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole))])
    kept = len(history.read(path).updates)
    assert history.read(path).updates == tuple(events[:kept])
    assert kept >= path.read_bytes().count(b"\n")
    with history.Writer(path) as writer:
        writer.resume(kept)
        writer.add(update(kept + 1, 0.125))
    assert history.read(path).updates == (*events[:kept], update(kept + 1, 0.125))


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b"null", b'{"event": "party"}', b'{"event": "update"}', b"\xff"])
def test_a_line_that_is_no_event_is_ignored(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    written(path, update(1))
    path.write_bytes(path.read_bytes() + line + b"\n")
    assert history.read(path).updates == (update(1),)


def test_readers_see_lines_once_they_are_flushed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with history.Writer(path) as writer:
        writer.add(update(1))
        writer.flush()
        assert history.read(path).updates == (update(1),)
