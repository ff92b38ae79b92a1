"""What a scheme knows of a cell, and what it draws."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

CriticalGain = Callable[[jax.Array], jax.Array]
"""The gain of recurrent kernels between vanishing and exploding gradients: from the bias of the
gate that keeps the state, or in a cell of one gate that keeps nothing, from the variance of the
input's part of a pre-activation."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The packed parameters of a cell: what a scheme has to know to draw them.

    Attributes:
      cell: the cell's name, for error messages.
      input_size: D.
      hidden_size: H.
      gates: the names of the G gates in the order in which they are packed. A separate gate that
        lets new content in, beside the one that keeps the state, is called "input".
      keep: the gate that keeps the state when it saturates (LSTM "forget", GRU "update"), where
        a forget bias goes; None if the cell has none.
      recurrent_bias: the gate with a second bias inside the recurrence (GRU "candidate", b_hn).
      dtype: of all parameters.
      recurrent_size: of the vector that is fed back, if not H (a projected LSTM).
      critical_gain: None where it is not known.
    """

    cell: str
    input_size: int
    hidden_size: int
    gates: tuple[str, ...]
    keep: str | None
    recurrent_bias: str | None
    dtype: Any
    recurrent_size: int | None = None
    critical_gain: CriticalGain | None = None

    @property
    def kernel_shape(self) -> tuple[int, int]:
        """(D, G * H)."""
        return self.input_size, len(self.gates) * self.hidden_size

    @property
    def recurrent_shape(self) -> tuple[int, int]:
        """(H, G * H), or with as many rows as are fed back."""
        return self.recurrent_size or self.hidden_size, len(self.gates) * self.hidden_size

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                raise ValueError(
                    f"{self.cell}: {name} must be an integer of at least 1, got {size!r}"
                )


Draw = Callable[[jax.Array, Layout], jax.Array]
"""Draws one parameter of a layout from a key."""


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How to draw each part of a packed-kernel cell; ``check`` refuses layouts without sense."""

    name: str
    kernel: Draw
    recurrent_kernel: Draw
    bias: Draw
    recurrent_bias: Draw
    check: Callable[[Layout], None] = lambda layout: None
