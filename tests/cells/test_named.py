"""Named tensors are values: immutable, and copied like any other."""

from __future__ import annotations

import copy

import pytest
import torch

from throughtime.cells import State


def test_copies() -> None:
    state = State(s=torch.ones(2), h=torch.zeros(2))
    shallow, deep = copy.copy(state), copy.deepcopy(state)
    assert tuple(shallow) == tuple(deep) == ("s", "h")
    assert shallow.s is state.s
    assert deep.s is not state.s
    assert torch.equal(deep.s, state.s)
    assert isinstance(deep, State)


def test_immutable() -> None:
    state = State(h=torch.zeros(2))
    with pytest.raises(AttributeError, match="immutable"):
        state.h = torch.ones(2)
    with pytest.raises(AttributeError, match="no 's' here; there is h"):
        _ = state.s
