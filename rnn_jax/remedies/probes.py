"""Links of an optax chain that record what passes: norms in log space, and whether a link acts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnn_jax import numerics
from rnn_jax.arguments import shown
from rnn_jax.base import PyTree


class Probe(NamedTuple):
    """Natural logarithms of the norms of what passed last; NaN before anything has.

    Attributes:
      log_norm: (), of all leaves together.
      log_norm_by_leaf: the same for each leaf, by its path ("recurrent_kernel", "0.bias").
    """

    log_norm: jax.Array
    log_norm_by_leaf: dict[str, jax.Array]


class Watched(NamedTuple):
    """What a link did.

    Attributes:
      before, after: `Probe`, of the last update.
      steps: (), the updates so far, int32.
      acted: (), how many of them the link changed in any entry, int32.
    """

    before: Probe
    after: Probe
    steps: jax.Array
    acted: jax.Array


class WatchState(NamedTuple):
    """The state of `watch`: ``{name: Watched}`` and the state of the link."""

    measurements: dict[str, Watched]
    inner: Any


def probe(name: str) -> optax.GradientTransformation:
    """A link that changes nothing and records the norms of what passes it, `Probe`.

    It is ``optax.snapshot`` with a norm that neither under- nor overflows: ``optax.tree.norm`` of a
    float32 gradient reads 0 below 1e-23 and infinity above 2e19. So ``optax.tree.get(state, name)``
    finds it too.

    >>> import jax.numpy as jnp
    >>> optimiser = optax.chain(probe("gradient"), optax.sgd(0.1))
    >>> state = optimiser.init({"a": jnp.zeros(2)})
    >>> _, state = optimiser.update({"a": jnp.array([3e-30, 4e-30])}, state)
    >>> round(float(read_probes(state)["gradient"].log_norm), 4)  # ln 5e-30
    -67.4681
    """
    # Not what optax would record at first, the norms of the parameters.
    init = lambda params: optax.transforms.SnapshotState({name: _nothing(params)})
    return optax.snapshot(name, _norms)._replace(init=init)


def watch(name: str, link: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The link, with the norms before and after it, and a count of the updates that it changed.

    Args:
      name: under which `read_probes` finds the `Watched`.
      link: any link or chain of them; of a clip, ``acted / steps`` is how often it clipped. An
        entry that is NaN before and after counts as unchanged.

    Raises:
      TypeError: for a link that is none.

    >>> import jax.numpy as jnp
    >>> optimiser = optax.chain(watch("clip", optax.clip_by_global_norm(1.0)), optax.adam(1e-3))
    >>> params = {"a": jnp.zeros(2)}
    >>> state = optimiser.init(params)
    >>> for size in (0.1, 10.0, 1000.0):
    ...     _, state = optimiser.update({"a": jnp.full(2, size)}, state)
    >>> seen = read_probes(state)["clip"]
    >>> int(seen.steps), int(seen.acted), round(float(seen.before.log_norm), 4)
    (3, 2, 7.2543)
    """
    if not isinstance(link, optax.GradientTransformation):
        raise TypeError(f"watch: link must be an optax.GradientTransformation, got {shown(link)}")
    link = optax.with_extra_args_support(link)

    def init(params: PyTree) -> WatchState:
        none = jnp.zeros((), jnp.int32)
        seen = Watched(_nothing(params), _nothing(params), none, none)
        return WatchState({name: seen}, link.init(params))

    def update(
        updates: PyTree, state: WatchState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, WatchState]:
        new, inner = link.update(updates, state.inner, params, **extra)
        seen = state.measurements[name]
        changed = jax.tree.leaves(jax.tree.map(_changed, updates, new))
        acted = jnp.any(jnp.stack(changed)).astype(jnp.int32)
        seen = Watched(_norms(updates), _norms(new), seen.steps + 1, seen.acted + acted)
        return new, WatchState({name: seen}, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def read_probes(opt_state: PyTree) -> dict[str, Probe | Watched]:
    """What every `probe` and `watch` in the state of an optimiser has recorded, by name.

    Works on the state of any nest of chains and wrappers, and inside ``jit``: returned from a step
    in a ``lax.scan``, it is the history of the training.

    Raises:
      ValueError: for two records of one name.

    >>> import jax.numpy as jnp
    >>> state = optax.chain(probe("before"), optax.clip(1.0), probe("after")).init(jnp.zeros(3))
    >>> sorted(read_probes(state))
    ['after', 'before']
    """
    is_record = lambda node: isinstance(node, Probe | Watched)
    found: dict[str, Probe | Watched] = {}
    for path, node in jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=is_record):
        if is_record(node):
            name = path[-1].key
            if name in found:
                raise ValueError(f"read_probes: two probes have the name {name!r}")
            found[name] = node
    return found


def _norms(tree: PyTree) -> Probe:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = (jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves)
    by_leaf = {name: numerics.log_norm(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}
    return Probe(numerics.log_norm(tree), by_leaf)


def _nothing(tree: PyTree) -> Probe:
    shapes = jax.eval_shape(_norms, tree)
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), shapes)


def _changed(before: jax.Array, after: jax.Array) -> jax.Array:
    return jnp.any((before != after) & ~(jnp.isnan(before) & jnp.isnan(after)))
