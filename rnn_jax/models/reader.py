"""A recurrent layer as a Flax module, with what stands before and behind it in a network."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rnn_jax.arguments import check_positive
from rnn_jax.base import Cell, Layer, Params, State, check_cells
from rnn_jax.combinators import keyed
from rnn_jax.schemes import Scheme
from rnn_jax.stochastic import check_rate
from rnn_jax.unroll import unroll


class Reader(nn.Module):
    """Reads a sequence: embedding, dropout, any cell or layer, dropout.

    x_t = E[token_t] (or the features as they are),    s_t, y_t = layer(s_{t-1}, x_t)

    Of one sequence, (T, D) features or (T,) tokens; ``vmap`` for a batch. It is `rnn_jax.unroll`
    that runs the layer, so masks, NaN in padding and length 0 behave as there. The parameters of
    the layer are its own pytree, under "layer".

    Depth and direction are those of the layer: `combinators.stack`, ``chain``, ``bidirectional``.
    Dropout inside the recurrence is that of `combinators.with_dropout`. All dropout draws from the
    stream "dropout" and only where ``train``.

    Attributes:
      layer: any `Cell` or `Layer`.
      hidden_size: H, or what else its ``init`` takes for it.
      tokens: how many distinct tokens there are; None for inputs that are features.
      embedding: E, the size of a token's vector, by default ``hidden_size`` if that is one number.
      embedding_gain: the entries of the vectors begin as normal draws of deviation gain / sqrt(E).
      dropout: the rate at which features of x_t and of y_t are dropped.
      scheme: an initialisation scheme, as for ``layer.init``.
      param_dtype: of all parameters of the network it is part of; all is computed in it.

    Raises:
      ValueError, TypeError: for inputs that are tokens where features are expected, or the other
        way round; for sizes below 1, a rate outside [0, 1), a layer that is none; by ``step`` and
        ``initial_state`` for a `Layer`, which has no step.

    >>> import rnn_jax
    >>> reader = Reader(rnn_jax.lstm(), 4, tokens=10, embedding=3)
    >>> variables = reader.init(jax.random.key(0), jnp.array([1, 2, 3]))
    >>> state, outputs = reader.apply(variables, jnp.array([1, 2, 3]))
    >>> state.cell.shape, outputs.shape
    ((4,), (3, 4))
    """

    layer: Cell | Layer
    hidden_size: Any
    tokens: int | None = None
    embedding: int | None = None
    embedding_gain: float = 1.0
    dropout: float = 0.0
    scheme: Scheme | None = None
    param_dtype: Any = jnp.float32

    def __call__(
        self,
        inputs: jax.Array,
        mask: jax.Array | None = None,
        *,
        state: State | None = None,
        train: bool = False,
    ) -> tuple[State, jax.Array]:
        """The state after the last step, and all outputs (T, ...)."""
        return self.run(self.embed(inputs, train=train), mask, state=state, train=train)

    def setup(self) -> None:
        check_cells("Reader", self.layer, kinds=Cell | Layer)
        check_rate("Reader", "dropout", self.dropout)
        if self.tokens is not None:
            check_positive("tokens", self.tokens)
            size = self.vector_size
            draw = nn.initializers.normal(self.embedding_gain / size**0.5)
            self.table = nn.Embed(
                self.tokens, size, param_dtype=self.param_dtype, embedding_init=draw
            )
        self.drop = nn.Dropout(self.dropout)

    @property
    def vector_size(self) -> int:
        """The size of a token's vector."""
        if self.embedding is not None:
            return check_positive("embedding", self.embedding)
        if not isinstance(self.hidden_size, int):
            raise ValueError(f"embedding must be given where hidden_size is {self.hidden_size!r}")
        return self.hidden_size

    def embed(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """What the layer reads: the vectors of tokens, features as they are."""
        inputs = jnp.asarray(inputs)
        are_tokens = jnp.issubdtype(inputs.dtype, jnp.integer)
        if are_tokens != (self.tokens is not None):
            expected = "features" if self.tokens is None else f"{self.tokens} tokens (integers)"
            raise ValueError(f"inputs are {inputs.dtype}, expected {expected}")
        xs = self.table(inputs) if are_tokens else inputs.astype(self.param_dtype)
        return self.drop(xs, deterministic=not train)

    @nn.compact
    def run(
        self,
        xs: jax.Array,
        mask: jax.Array | None = None,
        *,
        state: State | None = None,
        train: bool = False,
    ) -> tuple[State, jax.Array]:
        """The layer over vectors that are embedded already."""
        init = functools.partial(self.layer.init, scheme=self.scheme, dtype=self.param_dtype)
        params = self.param("layer", init, xs.shape[-1], self.hidden_size)
        drops = train and self.layer.stochastic
        inputs: Any = keyed(xs, self.make_rng("dropout")) if drops else xs
        state, trajectory = unroll(self.layer, params, inputs, state=state, mask=mask)
        return state, self.drop(trajectory.outputs, deterministic=not train)

    def initial_state(self) -> State:
        """The state before the first step."""
        return self._cell().initial_state(self._stored())

    def step(self, state: State, x: jax.Array) -> tuple[State, jax.Array]:
        """One step from an embedded vector: what `run` does at each."""
        return self._cell()(self._stored(), state, x)

    def _cell(self) -> Cell:
        if not isinstance(self.layer, Cell):
            raise ValueError(f"{self.layer.name} reads whole sequences: it has no step")
        return self.layer

    def _stored(self) -> Params:
        return self.get_variable("params", "layer")
