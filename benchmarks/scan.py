"""The same cells as JAX users write them: the input's products before the scan as one, then lax.scan, jitted.

Parameters have this package's names and layouts. One bias is enough wherever two are added to one sum, so both go into
the input's share before the scan. What XLA gets is the whole function, value and gradients at once; it takes a thread
for each core it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax, nn
from torch import Tensor

# T steps, B sequences, I inputs, H units
Parameters = Mapping[str, Array]
Cell = Callable[[Parameters, Array], Array]  # parameters and x (T, B, I) -> outputs (T, B, H)


class Learning:
    """The outputs' sum and its gradient with respect to every parameter, compiled at the first call."""

    def __init__(self, name: str, parameters: Mapping[str, Tensor], x: Tensor) -> None:
        cell = CELLS[name]

        def loss(p: Parameters, x: Array) -> tuple[Array, Array]:
            output = cell(p, x)
            return output.sum(), output

        self._compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))
        self._given = (
            {name: jnp.asarray(p.detach().numpy()) for name, p in parameters.items()},
            jnp.asarray(x.numpy()),
        )

    def __call__(self) -> None:
        """Run to the end: JAX would answer before its numbers are there."""
        jax.block_until_ready(self._compiled(*self._given))

    def answer(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Outputs, and gradients by parameter."""
        (_, output), gradients = self._compiled(*self._given)
        return np.array(output), {name: np.array(gradient) for name, gradient in gradients.items()}


def _over_time(step: Callable[..., tuple[Array, ...]], u: Array, p: Parameters, parts: int) -> Array:
    """Scan from zeros; `step` takes the parts and a step's u, and the last part it returns is the output."""
    zero = jnp.zeros((u.shape[1], p["weight_hh"].shape[1]), u.dtype)

    def body(state: tuple[Array, ...], u_t: Array) -> tuple[tuple[Array, ...], Array]:
        new = step(*state, u_t)
        return new, new[-1]

    return lax.scan(body, (zero,) * parts, u)[1]


def _share(p: Parameters, x: Array) -> Array:
    return x @ p["weight_ih"].T + (p["bias_ih"] + p["bias_hh"])


def _rnn(p: Parameters, x: Array) -> Array:
    W = p["weight_hh"].T
    return _over_time(lambda h, u: (jnp.tanh(u + h @ W),), _share(p, x), p, 1)


def _gru(p: Parameters, x: Array) -> Array:
    W, H = p["weight_hh"].T, p["weight_hh"].shape[1]
    early, late = p["bias_hh"].at[2 * H :].set(0), p["bias_hh"][2 * H :]

    def step(h: Array, u: Array) -> tuple[Array]:
        a = h @ W
        r, z = jnp.split(nn.sigmoid(u[:, : 2 * H] + a[:, : 2 * H]), 2, axis=-1)
        c = jnp.tanh(u[:, 2 * H :] + r * (a[:, 2 * H :] + late))
        return (z * h + (1 - z) * c,)

    return _over_time(step, x @ p["weight_ih"].T + (p["bias_ih"] + early), p, 1)


def _gru_before(p: Parameters, x: Array) -> Array:
    H = p["weight_hh"].shape[1]
    gates, candidate = p["weight_hh"][: 2 * H].T, p["weight_hh"][2 * H :].T

    def step(h: Array, u: Array) -> tuple[Array]:
        r, z = jnp.split(nn.sigmoid(u[:, : 2 * H] + h @ gates), 2, axis=-1)
        c = jnp.tanh(u[:, 2 * H :] + (r * h) @ candidate)
        return (z * h + (1 - z) * c,)

    return _over_time(step, _share(p, x), p, 1)


def _lstm(phi: Callable[[Array], Array]) -> Cell:
    def run(p: Parameters, x: Array) -> Array:
        W = p["weight_hh"].T

        def step(s: Array, h: Array, u: Array) -> tuple[Array, Array]:
            i, f, c, o = jnp.split(u + h @ W, 4, axis=-1)
            s = nn.sigmoid(f) * s + nn.sigmoid(i) * phi(c)
            return s, nn.sigmoid(o) * jnp.tanh(s)

        return _over_time(step, _share(p, x), p, 2)

    return run


def _lstm_without_forget(p: Parameters, x: Array) -> Array:
    W = p["weight_hh"].T

    def step(s: Array, h: Array, u: Array) -> tuple[Array, Array]:
        i, c, o = jnp.split(u + h @ W, 3, axis=-1)
        s = s + nn.sigmoid(i) * jnp.tanh(c)
        return s, nn.sigmoid(o) * jnp.tanh(s)

    return _over_time(step, _share(p, x), p, 2)


def _lstm_with_peepholes(p: Parameters, x: Array) -> Array:
    W = p["weight_hh"].T
    to_input, to_forget, to_output = jnp.split(p["weight_ch"], 3)

    def step(s: Array, h: Array, u: Array) -> tuple[Array, Array]:
        i, f, c, o = jnp.split(u + h @ W, 4, axis=-1)
        s = nn.sigmoid(f + to_forget * s) * s + nn.sigmoid(i + to_input * s) * jnp.tanh(c)
        return s, nn.sigmoid(o + to_output * s) * jnp.tanh(s)

    return _over_time(step, _share(p, x), p, 2)


def _made_up(p: Parameters, x: Array) -> Array:
    H = p["weight_hh"].shape[1]
    reading, answering = p["weight_hh"][: 2 * H].T, p["weight_hh"][2 * H :].T
    kept = jnp.exp(-jnp.exp(p["weight_decay"]))

    def step(m: Array, h: Array, u: Array) -> tuple[Array, Array]:
        a = u[:, : 2 * H] + h @ reading
        k, v = nn.softplus(a[:, :H]), jnp.tanh(a[:, H:])
        m = kept * m + k / (1 + k) * v
        return m, nn.sigmoid(u[:, 2 * H :] + (k * m) @ answering) * jnp.tanh(m)

    return _over_time(step, _share(p, x), p, 2)


CELLS: Mapping[str, Cell] = {
    "RNN": _rnn,
    "GRU": _gru,
    "LSTM": _lstm(jnp.tanh),
    "GRU of the lectures": _gru_before,
    "LSTM, logistic candidate": _lstm(nn.sigmoid),
    "LSTM, no forget gate": _lstm_without_forget,
    "LSTM with peepholes": _lstm_with_peepholes,
    "a cell made up here": _made_up,
}
