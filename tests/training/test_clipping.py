"""Clippings against torch's own, numpy's, and what the lectures promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.tolerances import IDENTITY, close
from throughtime.errors import TrainingError
from throughtime.records import Settings
from throughtime.training.clipping import (
    Always,
    ByNorm,
    ByPercentile,
    ByValue,
    EachParameter,
    NoClipping,
    clipping,
)


def parameters(scale: float = 1.0) -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in ((3, 4), (5,), (2, 2))]
    for parameter in made:
        parameter.grad = scale * torch.randn_like(parameter)
    return [*made, nn.Parameter(torch.zeros(2, dtype=torch.float64))]  # the last one got no gradient


def gradient(made: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.grad.flatten() for p in made if p.grad is not None])


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_by_norm_magnitude_becomes_k_and_direction_stays(scale: float) -> None:
    made = parameters(scale)
    before = gradient(made).clone()
    seen = ByNorm(0.5)(made)
    assert seen.norm == pytest.approx(float(before.norm()), rel=IDENTITY[torch.float64])
    assert seen.clipped == (float(before.norm()) > 0.5)
    assert seen.threshold == 0.5
    close(gradient(made), before * min(1.0, 0.5 / float(before.norm())))


def test_by_norm_is_torchs_but_for_its_epsilon() -> None:
    made = parameters()
    before = gradient(made).clone()
    ByNorm(0.5)(made)
    ours = gradient(made)
    for p, piece in zip(made, before.split([12, 5, 4]), strict=False):
        p.grad = piece.view_as(p).clone()
    norm = float(nn.utils.clip_grad_norm_(made, 0.5))
    close(ours, gradient(made) * (norm + 1e-6) / norm)


def test_each_parameter_is_limited_for_itself() -> None:
    made = parameters()
    made[1].grad = made[1].grad / 1e6
    before = [p.grad.clone() for p in made[:3]]
    seen = EachParameter(0.5)(made)
    for p, old in zip(made, before, strict=False):
        close(p.grad, old * min(1.0, 0.5 / float(old.norm())))
    assert seen.clipped
    assert seen.norm == pytest.approx(
        float(torch.cat([g.flatten() for g in before]).norm()), rel=IDENTITY[torch.float64]
    )
    assert not EachParameter(0.5 + 1e-9)(made).clipped


def test_by_value_is_torchs() -> None:
    made, theirs = parameters(), parameters()
    for p, q in zip(made, theirs, strict=True):
        q.grad = None if p.grad is None else p.grad.clone()
    norm = float(gradient(made).norm())
    seen = ByValue(0.3)(made)
    nn.utils.clip_grad_value_(theirs, 0.3)
    assert torch.equal(gradient(made), gradient(theirs))
    assert (seen.norm, seen.clipped) == (pytest.approx(norm, rel=IDENTITY[torch.float64]), True)
    assert not ByValue(0.3)(made).clipped


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_always_normalises_small_ones_too(scale: float) -> None:
    made = parameters(scale)
    before = gradient(made).clone()
    assert Always(2.0)(made).clipped
    close(gradient(made), 2.0 * before / before.norm())


def test_a_gradient_of_zero_stays_zero() -> None:
    for way in (ByNorm(1.0), EachParameter(1.0), ByValue(1.0), Always(1.0), ByPercentile(50.0), NoClipping()):
        made = parameters(0.0)
        assert way(made)[:2] == (0.0, False)
        assert not gradient(made).any()


def test_the_percentile_is_numpys_of_all_norms_so_far() -> None:
    way, norms = ByPercentile(30.0), []
    for n in range(25):
        made = parameters(math.exp(math.sin(7 * n)))
        before = gradient(made).clone()
        norms.append(float(before.norm()))
        seen = way(made)
        wanted = float(np.percentile(norms, 30.0))
        assert seen.threshold == pytest.approx(wanted, rel=IDENTITY[torch.float64])
        assert seen.clipped == (norms[-1] > seen.threshold)
        close(gradient(made), before * min(1.0, wanted / norms[-1]))
    went_on = ByPercentile(30.0, way.norms)
    assert went_on(made) == way(made)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_seen_in_the_norm_and_not_remembered(bad: float) -> None:
    for way in (ByNorm(1.0), EachParameter(1.0), ByValue(1.0), Always(1.0), ByPercentile(50.0), NoClipping()):
        made = parameters()
        made[0].grad[0, 0] = bad
        assert not math.isfinite(way(made).norm)
        if isinstance(way, ByPercentile):
            assert way.norms == []


def test_settings_choose_the_way() -> None:
    ways = {"norm": ByNorm, "parameter": EachParameter, "value": ByValue, "always": Always, "percentile": ByPercentile}
    for name, way in ways.items():
        assert type(clipping(Settings(clip=2.0, clip_by=name))) is way
    assert clipping(Settings(clip=None)).threshold is None
    assert clipping(Settings(clip=2.0, clip_by="backward")).threshold == 2.0


@pytest.mark.parametrize(("clip", "by"), [(0.0, "norm"), (-1.0, "value"), (101.0, "percentile"), (math.nan, "norm")])
def test_a_threshold_that_is_none_is_refused(clip: float, by: str) -> None:
    with pytest.raises(TrainingError, match="clip="):
        clipping(Settings(clip=clip, clip_by=by))
    with pytest.raises(TrainingError, match="is not known"):
        clipping(Settings(clip_by="hope"))
