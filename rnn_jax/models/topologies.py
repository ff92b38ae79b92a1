"""The five ways in which inputs and outputs can lie in time, over any cell or layer.

================  =============================  ==============================
module            inputs -> outputs              example
================  =============================  ==============================
`OneToOne`        (D,) -> (O,)                   an image and its class
`OneToMany`       (D,) -> (U, O)                 an image and its caption
`ManyToOne`       (T, D) -> (O,)                 a review and its sentiment
`ManyToMany`      (T, D) -> (T, O)               a text and its next characters
`EncoderDecoder`  (S, D) -> (U, O)               a sentence and its translation
================  =============================  ==============================

Modules take one example: ``vmap`` for a batch. T, S and U are steps, of padded sequences with a
mask. Wherever D stands the inputs may be tokens instead. The O outputs are logits or values, on
which `rnn_jax.models.OUTPUTS` has the functions that end a network.

Whatever reads in one direction also streams: fed step by step it gives the same outputs.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from rnn_jax.arguments import check_positive, shown
from rnn_jax.base import State
from rnn_jax.models.attention import Memory, attend
from rnn_jax.models.reader import Reader
from rnn_jax.stochastic import check_rate
from rnn_jax.tasks.problem import Conditioned
from rnn_jax.tasks.task import at_end

Pool = Literal["last", "mean", "ends"]
"""How a sequence of outputs becomes one vector: the last, their mean, or first and last beside
each other, which for a bidirectional layer is what each direction has read at its own end."""


def head(output_size: int, dtype: Any) -> nn.Dense:
    """The linear map to the outputs. It begins at 0: the first answer is the uniform one."""
    check_positive("output_size", output_size)
    return nn.Dense(output_size, param_dtype=dtype, kernel_init=nn.initializers.zeros)


def _check_reader(name: str, reader: Any) -> None:
    if not isinstance(reader, Reader):
        raise TypeError(f"{name} must be a Reader, as Reader(lstm(), 8) is, got {shown(reader)}")


class OneToOne(nn.Module):
    """The feed-forward network, for comparison: y = W_n f(... f(W_1 x + b_1) ...) + b_n.

    Attributes:
      features: the sizes of the hidden layers; none for a linear model.
      output_size: O.
      activation: f.
      dropout: the rate at which hidden features are dropped.
      param_dtype: of all parameters; all is computed in it.

    >>> model = OneToOne((8,), 3)
    >>> variables = model.init(jax.random.key(0), jnp.ones(5))
    >>> model.apply(variables, jnp.ones(5)).shape
    (3,)
    """

    features: Sequence[int]
    output_size: int
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    dropout: float = 0.0
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, inputs: jax.Array, mask: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """``mask`` is there for the sake of the others; nothing is padded here."""
        del mask
        if not inputs.ndim:
            raise ValueError(f"OneToOne: inputs must have features (D,), got {shown(inputs)}")
        check_rate("OneToOne", "dropout", self.dropout)
        x = inputs.astype(self.param_dtype)
        for size in self.features:
            check_positive("OneToOne: features", size)
            x = nn.Dropout(self.dropout)(
                self.activation(nn.Dense(size, param_dtype=self.param_dtype)(x)),
                deterministic=not train,
            )
        return head(self.output_size, self.param_dtype)(x)


class ManyToOne(nn.Module):
    """A sequence and one answer: y = W pool(h_1 ... h_T) + b.

    Attributes:
      reader: `Reader`.
      output_size: O.
      pool: `Pool`; "last" is the last step that is not padding.

    Raises:
      ValueError: for an unknown pool; for "ends" where it streams.

    >>> import rnn_jax
    >>> model = ManyToOne(Reader(rnn_jax.gru(), 4), 2)
    >>> variables = model.init(jax.random.key(0), jnp.ones((6, 3)))
    >>> model.apply(variables, jnp.ones((6, 3)), jnp.arange(6) < 4).shape
    (2,)
    """

    reader: Reader
    output_size: int
    pool: Pool = "last"

    def setup(self) -> None:
        _check_reader("reader", self.reader)
        self.head = head(self.output_size, self.reader.param_dtype)

    def __call__(
        self, inputs: jax.Array, mask: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """The answer after the whole sequence, (O,)."""
        _, outputs = self.reader(inputs, mask, train=train)
        return self.head(pooled(self.pool, over_space(outputs, 1), mask))

    def initial_state(self) -> "Heard":
        """The state before the first step, for `step`."""
        if self.pool == "ends":
            raise ValueError("pool 'ends' needs the whole sequence: it cannot stream")
        kernel = self.head.variables["params"]["kernel"]
        total = jnp.zeros(len(kernel), kernel.dtype)
        return Heard(self.reader.initial_state(), total, jnp.zeros((), jnp.int32))

    def step(self, state: "Heard", x: jax.Array) -> tuple["Heard", jax.Array]:
        """One more step, and the answer so far, (O,)."""
        recurrent, output = self.reader.step(state.recurrent, self.reader.embed(x))
        output = over_space(output)
        heard = Heard(recurrent, state.total + output, state.steps + 1)
        mean = heard.total / heard.steps.astype(output.dtype)
        return heard, self.head(output if self.pool == "last" else mean)


class Heard(NamedTuple):
    """What a `ManyToOne` carries from step to step: the layer's state, and what the mean needs."""

    recurrent: State
    total: jax.Array
    steps: jax.Array


class ManyToMany(nn.Module):
    """A sequence and an answer at each step: y_t = W h_t + b.

    The layer of a `Reader` may be a `Layer` that reads in both directions. The outputs of a cell
    over space, (H, W, C), are averaged over it.

    Attributes:
      reader: `Reader`.
      output_size: O.

    >>> import rnn_jax
    >>> model = ManyToMany(Reader(rnn_jax.lstm(), 4, tokens=9), 9)
    >>> tokens = jnp.array([3, 1, 4, 1, 5])
    >>> variables = model.init(jax.random.key(0), tokens)
    >>> whole = model.apply(variables, tokens)
    >>> state = model.apply(variables, method="initial_state")
    >>> for t, token in enumerate(tokens):  # the same, step by step
    ...     state, output = model.apply(variables, state, token, method="step")
    ...     assert jnp.allclose(output, whole[t], atol=1e-6)
    """

    reader: Reader
    output_size: int

    def setup(self) -> None:
        _check_reader("reader", self.reader)
        self.head = head(self.output_size, self.reader.param_dtype)

    def __call__(
        self, inputs: jax.Array, mask: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """All answers, (T, O)."""
        return self.run(inputs, mask, train=train)[1]

    def run(
        self,
        inputs: jax.Array,
        mask: jax.Array | None = None,
        *,
        state: State | None = None,
        train: bool = False,
    ) -> tuple[State, jax.Array]:
        """All answers and the state after the last step, where a next window can go on."""
        state, outputs = self.reader(inputs, mask, state=state, train=train)
        return state, self.head(over_space(outputs, 1))

    def initial_state(self) -> State:
        """The state before the first step."""
        return self.reader.initial_state()

    def step(self, state: State, x: jax.Array) -> tuple[State, jax.Array]:
        """One more step and its answer, (O,)."""
        state, output = self.reader.step(state, self.reader.embed(x))
        return state, self.head(over_space(output))


class OneToMany(nn.Module):
    """A vector and a sequence about it, said symbol by symbol.

    h_0 = cell(s_0, V f(U c)),    h_u = cell(s_{u-1}, E[y_{u-1}]),    y_u ~ softmax(W h_u + b)

    with the context c read before the first symbol, as in Vinyals et al. (2015), arXiv:1411.4555.
    In training y_{u-1} is the true symbol (teacher forcing); to say something of one's own, give
    ``step`` and the state of ``begin`` to `rnn_jax.models.greedy`, ``sampled`` or ``beam``.

    Attributes:
      decoder: the `Reader` of the symbols said; its ``tokens`` are the K symbols.
      output_size: O, as many as there are symbols.
      features: the sizes of hidden layers between the context and the decoder, f(U c) with f the
        rectifier; none for a linear map.

    >>> import rnn_jax
    >>> model = OneToMany(Reader(rnn_jax.lstm(), 4, tokens=7), 7)
    >>> inputs = Conditioned(jnp.ones(5), None, jnp.array([1, 4, 6]))
    >>> variables = model.init(jax.random.key(0), inputs)
    >>> model.apply(variables, inputs).shape
    (3, 7)
    """

    decoder: Reader
    output_size: int
    features: Sequence[int] = ()

    def setup(self) -> None:
        dense = functools.partial(nn.Dense, param_dtype=self.decoder.param_dtype)
        self.hidden = [dense(size) for size in self.features]
        self.context = dense(self.decoder.vector_size)
        self.head = head(self.output_size, self.decoder.param_dtype)

    def __call__(
        self, inputs: Conditioned, mask: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """The logits of each symbol given the true ones before it, (U, O)."""
        said = self.decoder.embed(inputs.previous, train=train)
        if inputs.context is not None:
            said = jnp.concatenate([self._about(inputs.context)[None], said])
            mask = None if mask is None else jnp.concatenate([jnp.ones(1, bool), mask])
        _, outputs = self.decoder.run(said, mask, train=train)
        return self.head(outputs[len(outputs) - len(inputs.previous) :])

    def begin(self, context: jax.Array | None) -> State:
        """The state before the first symbol, `rnn_jax.tasks.vocabulary.START`."""
        state = self.decoder.initial_state()
        return state if context is None else self.decoder.step(state, self._about(context))[0]

    def step(self, state: State, token: jax.Array) -> tuple[State, jax.Array]:
        """One symbol more: the state, and the logits of the next, (O,)."""
        state, output = self.decoder.step(state, self.decoder.embed(token))
        return state, self.head(output)

    def _about(self, context: jax.Array) -> jax.Array:
        """What the decoder reads first."""
        x = context.astype(self.decoder.param_dtype)
        for hidden in self.hidden:
            x = nn.relu(hidden(x))
        return self.context(x)


class EncoderDecoder(nn.Module):
    """A sequence and another one of its own length, said symbol by symbol.

    The decoder begins with what the encoder makes of the whole, read as its first input; any two
    layers go together so. With attention each symbol also looks at all that was read:

        a_u = softmax(h_u A e_1 ... h_u A e_S),    y_u ~ softmax(W tanh(C [h_u, sum_s a_us e_s]))

    Sutskever, Vinyals and Le (2014), arXiv:1409.3215; Cho et al. (2014), arXiv:1406.1078; attention
    as in Luong, Pham and Manning (2015), arXiv:1508.04025, "general".

    Attributes:
      encoder: the `Reader` of the context; it may read in both directions.
      decoder: the `Reader` of the symbols said.
      output_size: O, as many as there are symbols.
      attention: whether symbols look at the encoder's outputs.
      pool: what the encoder makes of the whole, a `Pool`.

    >>> import rnn_jax
    >>> encoder = Reader(rnn_jax.combinators.bidirectional(rnn_jax.gru()), 4, tokens=9, embedding=4)
    >>> model = EncoderDecoder(encoder, Reader(rnn_jax.gru(), 4, tokens=7), 7)
    >>> inputs = Conditioned(jnp.array([5, 8, 4, 0]), jnp.arange(4) < 3, jnp.array([1, 4, 6]))
    >>> variables = model.init(jax.random.key(0), inputs)
    >>> model.apply(variables, inputs).shape
    (3, 7)
    """

    encoder: Reader
    decoder: Reader
    output_size: int
    attention: bool = True
    pool: Pool = "ends"

    def setup(self) -> None:
        dense = functools.partial(nn.Dense, param_dtype=self.decoder.param_dtype)
        self.summary = dense(self.decoder.vector_size)
        self.head = head(self.output_size, self.decoder.param_dtype)
        if self.attention:
            self.key = dense(self.decoder.hidden_size, use_bias=False)
            self.combine = dense(self.decoder.hidden_size)

    def __call__(
        self, inputs: Conditioned, mask: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """The logits of each symbol given the true ones before it, (U, O)."""
        outputs, memory = self._read(inputs, mask, train)
        return self._say(outputs, memory)

    def begin(self, context: jax.Array, context_mask: jax.Array | None = None) -> "Decoding":
        """The state before the first symbol, `rnn_jax.tasks.vocabulary.START`."""
        summary, memory = self._encode(context, context_mask, train=False)
        state, _ = self.decoder.step(self.decoder.initial_state(), summary)
        return Decoding(state, memory)

    def step(self, state: "Decoding", token: jax.Array) -> tuple["Decoding", jax.Array]:
        """One symbol more: the state, and the logits of the next, (O,)."""
        recurrent, output = self.decoder.step(state.recurrent, self.decoder.embed(token))
        return state._replace(recurrent=recurrent), self._say(output, state.memory)

    def attention_weights(self, inputs: Conditioned) -> jax.Array:
        """How much each symbol looks at each step of the context, (U, S)."""
        outputs, memory = self._read(inputs, None, train=False)
        if memory is None:
            raise ValueError("attention_weights: this model has no attention")
        return attend(outputs, memory)[1]

    def _encode(
        self, context: jax.Array, mask: jax.Array | None, train: bool
    ) -> tuple[jax.Array, Memory | None]:
        """What the decoder reads first, and what it can look at."""
        _, encoded = self.encoder(context, mask, train=train)
        summary = self.summary(pooled(self.pool, encoded, mask))
        return summary, Memory(self.key(encoded), encoded, mask) if self.attention else None

    def _read(
        self, inputs: Conditioned, mask: jax.Array | None, train: bool
    ) -> tuple[jax.Array, Memory | None]:
        """The decoder's outputs (U, H), and what it can look at."""
        summary, memory = self._encode(inputs.context, inputs.context_mask, train)
        said = self.decoder.embed(inputs.previous, train=train)
        said = jnp.concatenate([summary[None], said])
        mask = None if mask is None else jnp.concatenate([jnp.ones(1, bool), mask])
        return self.decoder.run(said, mask, train=train)[1][1:], memory

    def _say(self, outputs: jax.Array, memory: Memory | None) -> jax.Array:
        if memory is not None:
            seen, _ = attend(outputs, memory)
            outputs = jnp.tanh(self.combine(jnp.concatenate([outputs, seen], axis=-1)))
        return self.head(outputs)


class Decoding(NamedTuple):
    """What an `EncoderDecoder` carries from symbol to symbol."""

    recurrent: State
    memory: Memory | None


def pooled(pool: Pool, outputs: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """One vector of the outputs (T, H) of a sequence: (H,), or (2 H,) for "ends".

    >>> outputs = jnp.arange(6.0).reshape(3, 2)
    >>> [pooled(pool, outputs, jnp.arange(3) < 2).tolist() for pool in ("last", "mean", "ends")]
    [[2.0, 3.0], [1.0, 2.0], [0.0, 1.0, 2.0, 3.0]]
    """
    mask = jnp.ones(len(outputs), bool) if mask is None else mask
    if pool == "last":
        return at_end(outputs, mask)
    if pool == "mean":
        count = jnp.maximum(jnp.sum(mask), 1).astype(outputs.dtype)  # of nothing, the mean is 0
        return jnp.sum(outputs, axis=0, where=mask[:, None]) / count
    if pool == "ends":
        return jnp.concatenate([outputs[0], at_end(outputs, mask)])
    raise ValueError(f"pool must be 'last', 'mean' or 'ends', got {pool!r}")


def over_space(outputs: jax.Array, leading: int = 0) -> jax.Array:
    """The mean over the axes between the ``leading`` ones and the features: (..., H, W, C)."""
    return jnp.mean(outputs, axis=tuple(range(leading, outputs.ndim - 1)))
