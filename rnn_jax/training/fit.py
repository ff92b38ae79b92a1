"""Training of a model on a problem: the loop that measures, keeps the best and knows when to stop.

The loop is a generator of `Progress`, a pytree that holds all there is: whoever calls it shows,
writes, keeps or stops what it likes.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from rnn_jax.arguments import check_positive
from rnn_jax.base import Params, PyTree
from rnn_jax.tasks.problem import Metric, Problem
from rnn_jax.tasks.task import Example
from rnn_jax.training.checkpoints import Checkpoints
from rnn_jax.training.update import ObjectiveFn, Seen, TrainState, init_state, make_update, updates

_AT_ONCE = 256  # examples of a held-out set that are looked at together


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
      optimiser: any of optax, see `rnn_jax.training.make_optimiser`.
      batch: B, examples in an update.
      updates: how many at most, a multiple of ``every``.
      every: updates between two looks at the validation set.
      patience: how many looks in a row may find nothing better before it stops; None for no end.

    Raises:
      ValueError, TypeError: for what is no integer of at least 1, for ``updates`` that ``every``
        does not divide.
    """

    optimiser: optax.GradientTransformation
    batch: int
    updates: int
    every: int
    patience: int | None = None

    def __post_init__(self) -> None:
        for field in ("batch", "updates", "every"):
            check_positive(field, getattr(self, field))
        if self.patience is not None:
            check_positive("patience", self.patience)
        if self.updates % self.every:
            raise ValueError(f"updates must be a multiple of every = {self.every}: {self.updates}")


class History(NamedTuple):
    """A row for each look at the validation set, the first before any update; NaN where none was.

    Attributes:
      updates: (E,), the updates done.
      train_loss: the mean objective of the updates since the last look.
      validation_loss: in nats or squared units.
      metric: of the validation set, in the units of the problem.
      log_gradient_norm: the largest since the last look, natural logarithm.
    """

    updates: Any
    train_loss: Any
    validation_loss: Any
    metric: Any
    log_gradient_norm: Any


class Progress(NamedTuple):
    """A run so far.

    Attributes:
      state: `TrainState`, from which it goes on.
      best: the parameters that did best on the validation set.
      history: `History`.
    """

    state: TrainState
    best: Params
    history: History


class Diverged(ArithmeticError):
    """A loss or a gradient that is not finite.

    Attributes:
      step: the update that saw it, counted from 1.
      good_step: the updates done at the last look, whose state `fit` handed out and kept.
      log_gradient_norms: the largest between earlier looks, then those of the updates since the
        last one, its own last.
    """

    def __init__(self, step: int, good_step: int, log_gradient_norms: np.ndarray) -> None:
        self.step, self.good_step = step, good_step
        self.log_gradient_norms = log_gradient_norms
        norms = ", ".join(f"{norm:.2f}" for norm in log_gradient_norms)
        super().__init__(
            f"update {step}: the loss or its gradient is not finite; ln of the gradient norms "
            f"that led there: {norms}; the last good state is that after update {good_step}"
        )


def fit(
    model: nn.Module,
    problem: Problem,
    recipe: Recipe,
    key: jax.Array,
    *,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Progress]:
    """Trains, and hands out its `Progress` at each look at the validation set.

    With checkpoints every look is kept, and a later call with the same arguments goes on from the
    newest: on the same machine it ends with the same weights, bit for bit.

    Args:
      model: one of `rnn_jax.models`, or any module with ``(inputs, mask, *, train)``.
      problem: what to train it on.
      recipe: how.
      key: of everything random.
      checkpoints: where to keep states.

    Raises:
      Diverged: for a loss or gradient that is NaN or infinite.

    >>> import rnn_jax
    >>> from rnn_jax.models import ManyToOne, Reader
    >>> from rnn_jax.tasks.problem import Metric
    >>> xs = np.random.default_rng(0).standard_normal((200, 5, 1)).astype(np.float32)
    >>> data = Example(xs, xs[:, 0, 0], np.ones((200, 5), bool))
    >>> loss = lambda outputs, example: jnp.square(outputs[0] - example.target)
    >>> metric = Metric("RMSE", lambda *args: (loss(*args), jnp.ones(())), finish=math.sqrt)
    >>> first = Problem("say the first", "many_to_one", data, data, data, loss, metric, 1, {})
    >>> model = ManyToOne(Reader(rnn_jax.gru(), 8), 1)
    >>> recipe = Recipe(optax.adam(0.01), batch=50, updates=200, every=100)
    >>> for progress in fit(model, first, recipe, jax.random.key(0)):
    ...     pass
    >>> bool(progress.history.metric[0] > 0.8), bool(progress.history.metric[-1] < 0.3)
    (True, True)
    """
    of_init, of_run = jax.random.split(key)
    look = make_look(model, problem)
    progress = begin(model, problem, recipe, of_init)
    kept = checkpoints.newest(progress) if checkpoints else None
    if kept is not None:
        _, progress = kept
    else:
        progress = _noted(progress, problem, look, None)
        if checkpoints:
            checkpoints.save(0, progress)
    yield progress

    data = jax.tree.map(jnp.asarray, problem.train)
    draw = _with_flag(problem, recipe.batch)
    update = make_update(make_objective(model, problem), recipe.optimiser, draw)
    run = updates(update, recipe.every)
    while not is_finished(progress.history, recipe, problem.metric):
        state, seen = run(progress.state, data, of_run)
        _check_finite(seen, int(progress.state.step), _norms_before(progress))
        before, progress = progress, _noted(progress._replace(state=state), problem, look, seen)
        row = int(np.sum(~np.isnan(progress.history.updates))) - 1
        if not np.isfinite(progress.history.validation_loss[row]):
            norms = np.append(_norms_before(before), np.asarray(seen.log_gradient_norm))
            raise Diverged(int(state.step), int(before.state.step), norms[-10:])
        if checkpoints:
            checkpoints.save(int(state.step), progress)
        yield progress


def check(model: nn.Module, problem: Problem, recipe: Recipe) -> None:
    """Traces the first update, without computing it.

    Raises:
      ValueError, TypeError: for a model that does not fit the problem, or what else an update may
        complain of.
    """
    update = make_update(
        make_objective(model, problem), recipe.optimiser, _with_flag(problem, recipe.batch)
    )
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key: begin(model, problem, recipe, key), key).state
    jax.eval_shape(update, state, problem.train, key)


def make_objective(model: nn.Module, problem: Problem) -> ObjectiveFn:
    """The mean loss of a batch, which is ``(examples, whether they continue the last ones)``."""

    def objective(
        params: Params, carry: PyTree, batch: tuple[Example, Any], key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, PyTree]]:
        examples, continues = batch
        count = jax.tree.leaves(examples)[0].shape[0]

        def one(example: Example, state: Any, key: jax.Array) -> tuple[jax.Array, Any]:
            variables, rngs = {"params": params}, {"dropout": key}
            outputs: Any
            if problem.continues is None:
                outputs = model.apply(
                    variables, example.inputs, example.mask, train=True, rngs=rngs
                )
            else:
                first = model.apply(variables, method="initial_state")
                state = jax.tree.map(lambda a, b: jnp.where(continues, a, b), state, first)
                state, outputs = model.apply(
                    variables, example.inputs, example.mask,
                    state=state, train=True, rngs=rngs, method="run",
                )  # fmt: skip
            return problem.loss(outputs, example), jax.lax.stop_gradient(state)

        losses, carry = jax.vmap(one)(examples, carry, jax.random.split(key, count))
        return jnp.mean(losses), (carry, ())

    return objective


def make_look(model: nn.Module, problem: Problem) -> Callable[[Params, Example], tuple]:
    """(params, examples) -> (mean loss, total and weight of the metric), all ()."""

    def judge(outputs: Any, example: Example) -> tuple:
        return problem.loss(outputs, example), *problem.metric.measure(outputs, example)

    def one(params: Params, example: Example) -> tuple:
        return judge(model.apply({"params": params}, example.inputs, example.mask), example)

    def going_on(params: Params, examples: Example) -> tuple:
        def step(state: Any, example: Example) -> tuple:
            state, outputs = model.apply(
                {"params": params}, example.inputs, example.mask, state=state, method="run"
            )
            return state, judge(outputs, example)

        first = model.apply({"params": params}, method="initial_state")
        return jax.lax.scan(step, first, examples)[1]

    # Examples that do not go on where the last one ended are looked at in batches of one size, the
    # last filled up: one compiled program for held-out sets of every size.
    batch = jax.jit(jax.vmap(one, in_axes=(None, 0)))
    in_order = jax.jit(going_on)

    def look(params: Params, examples: Example) -> tuple:
        if problem.continues is not None:
            judged = in_order(params, jax.tree.map(jnp.asarray, examples))
        else:
            count = len(examples.mask)
            parts = []
            for start in range(0, count, _AT_ONCE):
                rows = np.arange(start, start + _AT_ONCE) % count
                some = jax.tree.map(lambda leaf, rows=rows: leaf[rows], examples)
                parts.append(batch(params, some))
            judged = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)
        losses, totals, weights = judged
        return jnp.mean(losses), jnp.sum(totals), jnp.sum(weights)

    return look


def evaluate(
    model: nn.Module, problem: Problem, params: Params, examples: Example
) -> tuple[float, float]:
    """The mean loss, and the metric in the units of the problem, of a held-out set."""
    return _judged(make_look(model, problem), problem.metric, params, examples)


def is_finished(history: History, recipe: Recipe, metric: Metric) -> bool:
    """Whether all updates are done, or the validation set has seen nothing better for too long."""
    metrics = np.asarray(history.metric)
    done = int(np.sum(~np.isnan(history.updates)))
    since = done - 1 - best_row(history, metric)
    stale = recipe.patience is not None and since >= recipe.patience
    return done == len(metrics) or stale


def best_row(history: History, metric: Metric) -> int:
    """The row with the best metric, the first of several; row 0 where every metric is NaN."""
    metrics = np.asarray(history.metric, float)
    worst = -math.inf if metric.higher_is_better else math.inf
    ranked = np.where(np.isnan(metrics), worst, metrics)
    return int(np.argmax(ranked) if metric.higher_is_better else np.argmin(ranked))


def begin(model: nn.Module, problem: Problem, recipe: Recipe, key: jax.Array) -> Progress:
    """The progress before anything was done or looked at: also what `Checkpoints` are like."""
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), problem.validation)
    params = jax.jit(model.init)(key, one.inputs, one.mask)["params"]
    carry: PyTree = ()
    if problem.continues is not None:
        first = model.apply({"params": params}, method="initial_state")
        batch = recipe.batch
        carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *leaf.shape)), first)
    rows = recipe.updates // recipe.every + 1
    history = History(*(jnp.full(rows, jnp.nan) for _ in History._fields))
    return Progress(init_state(params, recipe.optimiser, carry), params, history)


def _with_flag(problem: Problem, batch: int) -> Callable:
    def draw(train: Any, key: jax.Array, n: jax.Array) -> tuple[Example, Any]:
        examples = problem.draw(train, key, n, batch)
        return examples, problem.continues and problem.continues(train, n, batch)

    return draw


def _judged(
    look: Callable, metric: Metric, params: Params, examples: Example
) -> tuple[float, float]:
    loss, total, weight = map(float, look(params, examples))
    mean = total / weight if weight else math.nan
    return loss, mean if math.isnan(mean) else metric.finish(mean)


def _noted(progress: Progress, problem: Problem, look: Callable, seen: Seen | None) -> Progress:
    """The progress with one more row."""
    state, history = progress.state, progress.history
    loss, metric = _judged(look, problem.metric, state.params, problem.validation)
    values = History(
        updates=float(state.step),
        train_loss=math.nan if seen is None else float(jnp.mean(seen.loss)),
        validation_loss=loss,
        metric=metric,
        log_gradient_norm=math.nan if seen is None else float(jnp.max(seen.log_gradient_norm)),
    )
    row = int(np.sum(~np.isnan(history.updates)))
    history = jax.tree.map(lambda column, value: column.at[row].set(value), history, values)
    best = state.params if best_row(history, problem.metric) == row else progress.best
    return Progress(state, best, history)


def _norms_before(progress: Progress) -> np.ndarray:
    norms = np.asarray(progress.history.log_gradient_norm)
    return norms[~np.isnan(norms)]


def _check_finite(seen: Seen, done: int, before: np.ndarray) -> None:
    """Raises for the first update whose loss is not finite, or whose gradient has no finite norm.

    A gradient of 0, whose logarithm is -inf, is finite.
    """
    norms = np.asarray(seen.log_gradient_norm)
    bad = ~np.isfinite(seen.loss) | np.isnan(norms) | (norms == np.inf)
    if bad.any():
        first = int(np.argmax(bad))
        norms = np.concatenate([before, norms[: first + 1]])
        raise Diverged(done + first + 1, done, norms[-10:])
