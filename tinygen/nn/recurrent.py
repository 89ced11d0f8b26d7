"""Long short-term memory (Hochreiter and Schmidhuber 1997; the forget gate of Gers et al. 2000)."""

import math
from typing import Any

import numpy as np

from tinygen.backend import module_of
from tinygen.nn import init as initialisers
from tinygen.nn.module import Module, Parameter
from tinygen.ops import concatenate, expand_dims, flip, linear, stack, swapaxes
from tinygen.ops.lstm import lstm
from tinygen.tensor import array_of

State = tuple[Any, Any]
"""(hidden state, cell state)."""


def _run(x: Any, state: State, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any) -> tuple[Any, Any]:
    """x (T, B, in) through one layer in one direction: hidden and cell states, (T, B, H) each."""
    bias = None if bias_ih is None else bias_ih + bias_hh
    y = lstm(linear(x, weight_ih, bias), *state, weight_hh)
    size = weight_hh.shape[1]
    return y[..., :size], y[..., size:]


class _Recurrent(Module):
    """What LSTM and LSTMCell share: making the parameters of one layer in one direction, and finding them."""

    def _add_parameters(self, suffix: str, input_size: int, bias: bool, rng: np.random.Generator, dtype: Any) -> None:
        size = self.hidden_size
        shapes = {"weight_ih": (4 * size, input_size), "weight_hh": (4 * size, size)}
        shapes |= {"bias_ih": (4 * size,), "bias_hh": (4 * size,)} if bias else {}
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            shape = shapes.get(name)
            value = shape and Parameter(initialisers.uniform(rng, shape, dtype, bound=1 / math.sqrt(size)))
            setattr(self, name + suffix, value)

    def _parameters_of(self, suffix: str) -> tuple[Parameter | None, ...]:
        return tuple(getattr(self, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))


class LSTMCell(_Recurrent):
    """One step: x (B, input_size) and the state (h, c), (B, hidden_size) each (zeros if None) -> the next (h, c).

        i, f, o = sigmoid(...), u = tanh(...) of weight_ih x + bias_ih + weight_hh h + bias_hh, in the order i, f, u, o
        c <- f c + i u          h <- o tanh(c)

    All parameters are drawn from U(-b, b) with b = 1 / sqrt(hidden_size).
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, *, rng: np.random.Generator, dtype: Any = np.float32
    ):
        self.input_size = input_size
        self.hidden_size = hidden_size
        self._add_parameters("", input_size, bias, rng, dtype)

    def forward(self, x: Any, state: State | None = None) -> State:
        _check_input(self, x, 2)
        state = state or _zeros(x, (len(x), self.hidden_size), self.weight_hh.dtype)
        h, c = _run(expand_dims(x, 0), state, *self._parameters_of(""))
        return h[0], c[0]


class LSTM(_Recurrent):
    """Steps of `LSTMCell` along a sequence, `num_layers` deep, in one direction or both.

    x (T, B, input_size), or (B, T, input_size) with `batch_first`; the state (h, c) before the first step, each
    (num_layers * directions, B, hidden_size), zeros if None. Returns the outputs of the last layer, (T, B, directions *
    hidden_size) or (B, T, ...), and the state (h, c) after the last step. With `bidirectional`, each layer's second
    half reads the sequence from its end; its state is that after the first step.

    Parameters of layer k: weight_ih_l{k}, weight_hh_l{k}, bias_ih_l{k}, bias_hh_l{k}, and the same with "_reverse".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        *,
        rng: np.random.Generator,
        dtype: Any = np.float32,
    ):
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.bidirectional = bidirectional
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * (1 + bidirectional)
            for direction in self._directions():
                self._add_parameters(f"_l{layer}{direction}", width, bias, rng, dtype)

    def _directions(self) -> tuple[str, ...]:
        return ("", "_reverse") if self.bidirectional else ("",)

    def forward(self, x: Any, state: State | None = None) -> tuple[Any, State]:
        _check_input(self, x, 3)
        if self.batch_first:
            x = swapaxes(x, 0, 1)
        directions = self._directions()
        shape = (self.num_layers * len(directions), x.shape[1], self.hidden_size)
        state = state or _zeros(x, shape, self.weight_hh_l0.dtype)
        if tuple(state[0].shape) != shape or tuple(state[1].shape) != shape:
            raise ValueError(f"LSTM takes a state of two {shape}, not {state[0].shape} and {state[1].shape}")
        last: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in directions:
                start = state[0][len(last)], state[1][len(last)]
                steps = flip(x, 0) if direction else x
                h, c = _run(steps, start, *self._parameters_of(f"_l{layer}{direction}"))
                last.append((h[-1], c[-1]))
                outputs.append(flip(h, 0) if direction else h)
            x = concatenate(outputs, -1) if self.bidirectional else outputs[0]
        h_last, c_last = (stack(parts) for parts in zip(*last))
        return swapaxes(x, 0, 1) if self.batch_first else x, (h_last, c_last)


def _check_input(layer: _Recurrent, x: Any, ndim: int) -> None:
    if x.ndim != ndim or x.shape[-1] != layer.input_size or not x.size:
        expected = "(B, input_size)" if ndim == 2 else "(B, T, input_size)" if layer.batch_first else "(T, B, input_size)"
        raise ValueError(f"{type(layer).__name__} takes a non-empty x of shape {expected}, not {x.shape}; {layer}")


def _zeros(x: Any, shape: tuple[int, ...], dtype: Any) -> State:
    xp = module_of(array_of(x))
    return xp.zeros(shape, dtype), xp.zeros(shape, dtype)
