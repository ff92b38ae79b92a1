"""Combinators: the contract on nests of them, and what each does to the cell it is given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import LAWS, Case, close

import rnn_jax
from rnn_jax import (
    LinearCell,
    cells,
    combinators,
    elman,
    gru,
    lstm,
    unroll,
    unroll_parallel,
    unroll_static,
)
from rnn_jax.combinators import (
    BidirectionalState,
    ChainState,
    StackState,
    batched,
    bidirectional,
    chain,
    keyed,
    residual,
    skip,
    stack,
    with_dropout,
    with_layer_norm,
    with_learned_state,
    with_zoneout,
)

T, D, H = 7, 3, 4
KEY = jax.random.key(0)
XS = jnp.asarray(np.random.default_rng(0).normal(size=(T, D)))

NESTS = {
    "stack": (lambda: stack(lstm(), gru()), {}),
    "residual": (lambda: residual(gru()), {"input_size": 4}),
    "skip": (lambda: skip(elman()), {}),
    "layer_norm": (lambda: with_layer_norm(gru()), {}),
    "learned_state": (lambda: with_learned_state(lstm()), {}),
    "dropout": (lambda: with_dropout(gru(), input=0.5, output=0.5), {}),
    "zoneout": (lambda: with_zoneout(lstm(), {"hidden": 0.2, "cell": 0.5}), {}),
    "deep": (
        lambda: stack(
            skip(with_zoneout(elman(), 0.3)),
            with_learned_state(with_layer_norm(with_dropout(lstm(), recurrent=0.2))),
            residual(stack(gru("before"), elman("relu"))),
        ),
        {},
    ),
}
QUICK = {"unroll_is_a_plain_loop", "read_repeats_the_output", "derivatives_agree"}
"""Laws that the nest of everything obeys in the quick tests; in the slow ones it obeys all."""
SLOW = {
    "the_state_keeps_its_kind",
    "a_cell_is_a_scan_body",
    "project_takes_any_leading_axes",
    "read_repeats_the_output",
    "unroll_is_a_plain_loop",
    "masked_steps_are_absent",
    "tap_gradients_are_products_of_jacobians",
    "the_closed_jacobian_is_the_derivative",
}
"""Laws that each combinator alone could break."""


def laws():
    for name, (make, options) in NESTS.items():
        for law in LAWS if name == "deep" else (law for law in LAWS if law.__name__ in SLOW):
            quick = name == "deep" and law.__name__ in QUICK
            marks = () if quick else pytest.mark.slow
            yield pytest.param(
                law,
                Case(make(), remake=make, **options),
                id=f"{law.__name__}-{name}",
                marks=marks,
            )


@pytest.mark.parametrize(("law", "case"), list(laws()))
def test_law(law, case):
    law(case)


def noisy(cell, hidden_size=H, seed=0, input_size=D):
    """Parameters in general position."""
    params = cell.init(jax.random.key(seed), input_size, hidden_size)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape), params)


# ---- Stack, residual and skip -------------------------------------------------------------------


def test_a_stack_is_one_cell_after_the_other():
    """And so the chain of the same cells: the same outputs, end states and gradients."""
    cell, layer = stack(lstm(), gru(), elman()), chain(lstm(), gru(), elman())
    params = noisy(cell, (4, 5, 6))
    mask, reset = np.arange(T) < 5, np.arange(T) == 2

    def run(layer, params, xs):
        return unroll(layer, params, xs, mask=mask, reset=reset)

    def by_hand(params, xs):
        states = []
        for part, own in zip((lstm(), gru(), elman()), params, strict=True):
            state, path = unroll(part, own, xs, mask=mask, reset=reset)
            xs = path.outputs
            states.append(state)
        return tuple(states), xs

    end, path = run(cell, params, XS)
    chained_end, chained = run(layer, params, XS)
    states, outputs = by_hand(params, XS)
    close((end.cells, path.outputs), (states, outputs))
    close((chained_end.layers, chained.outputs), (states, outputs))
    assert path.outputs.shape == (T, 6)

    loss = lambda function: lambda params, xs: jnp.sum(jnp.sin(function(params, xs)[1]))
    expected = jax.grad(loss(by_hand), (0, 1))(params, XS)
    for part in (cell, layer):
        outputs_of = lambda params, xs, part=part: (None, run(part, params, xs)[1].outputs)
        close(jax.grad(loss(outputs_of), (0, 1))(params, XS), expected)


def test_sizes_of_a_stack():
    cell = stack(skip(lstm()), gru())
    shapes = jax.eval_shape(lambda: cell.init(KEY, 3, (8, 5)))
    assert shapes[1]["kernel"].shape == (3 + 8, 15)
    with pytest.raises(ValueError, match=r"stack: hidden_size .* each of the 2 cells, got \(8,\)"):
        cell.init(KEY, 3, (8,))
    with pytest.raises(ValueError, match=r"lstm: hidden_size .* got 0"):
        cell.init(KEY, 3, (0, 5))


def test_a_scheme_reaches_every_cell():
    params = stack(lstm(), gru()).init(KEY, 3, 4, scheme=rnn_jax.schemes.orthogonal(2.0, 1.5))
    assert float(params[0]["bias"][4]) == 1.5
    block = params[1]["recurrent_kernel"][:, :4]
    close(block.T @ block, 4 * jnp.eye(4))


def test_residual_and_skip_show_the_input():
    for cell, size in ((residual(gru()), D), (skip(gru()), D + H)):
        params = noisy(gru(), D if size == D else H)
        _, inner = unroll(gru(), params, XS)
        _, path = unroll(cell, params, XS)
        expected = XS + inner.outputs if size == D else jnp.hstack([XS, inner.outputs])
        close(path.outputs, expected)
        close(path.states, inner.states)


ONE_CELL = {
    "residual": residual,
    "skip": skip,
    "with_layer_norm": with_layer_norm,
    "with_learned_state": with_learned_state,
    "with_dropout": with_dropout,
    "with_zoneout": lambda cell: with_zoneout(cell, 0.5),
    "batched": lambda cell: batched(cell, 2),
}
SEVERAL = {"stack": stack, "chain": chain, "bidirectional": bidirectional}


@pytest.mark.parametrize("name", [*ONE_CELL, *SEVERAL])
def test_what_is_no_cell(name):
    make = (ONE_CELL | SEVERAL)[name]
    with pytest.raises(
        TypeError, match=rf"{name}: .* is no cell \(factories are called: lstm\(\), not lstm\)"
    ):
        make(lstm)


@pytest.mark.parametrize("name", [*ONE_CELL, "stack"])
def test_a_layer_is_no_cell(name):
    make = (ONE_CELL | SEVERAL)[name]
    with pytest.raises(
        TypeError, match=rf"{name}: <Layer chain\(gru\)> is no cell \(a layer has no"
    ):
        make(chain(gru()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: stack(gru(), gru()),
        lambda: chain(gru(), gru()),
        lambda: bidirectional(gru()),
        lambda: with_layer_norm(gru()),
        lambda: with_learned_state(gru()),
    ],
    ids=["stack", "chain", "bidirectional", "layer_norm", "learned_state"],
)
def test_parameters_of_another_network(make):
    """Too many, too few, in another container or bare: one error, which names the network."""
    network = make()
    params = network.init(KEY, H, H)
    if isinstance(params, tuple):
        wrong = [(*params, params[0]), params[:1], (), dict(enumerate(params)), params[0]]
    else:
        name = min(params)
        fewer = {other: part for other, part in params.items() if other != name}
        wrong = [params | {"more": params[name]}, fewer, tuple(params.values()), params[name], {}]
    for other in wrong:
        with pytest.raises(
            ValueError, match=r"^\w+\(gru.*\): params with .* those of another cell"
        ):
            unroll(network, other, XS[:, :1].repeat(H, 1))


@pytest.mark.parametrize("make", [stack, chain], ids=lambda make: make.__name__)
def test_nothing_to_combine(make):
    with pytest.raises(ValueError, match="at least one"):
        make()


def test_equal_combinations_are_the_same_object():
    assert stack(lstm(), gru()) is stack(lstm(), gru())
    assert bidirectional(lstm()) is bidirectional(lstm(), lstm(), merge="concatenate")
    assert with_dropout(gru(), input=0.5) is with_dropout(gru(), input=0.5, output=0)
    assert with_zoneout(gru(), 0.5) is with_zoneout(gru(), 0.5)
    assert with_dropout(gru(), input=0.5) is not with_dropout(gru(), input=0.25)


# ---- Layer norm and learned state ---------------------------------------------------------------


def test_layer_norm_is_that_of_flax():
    import flax.linen as nn

    cell = with_layer_norm(gru())
    params = noisy(cell)
    _, inner = unroll(gru(), params["cell"], XS)
    scale = {"params": {"scale": params["gain"], "bias": params["shift"]}}
    with jax.numpy_dtype_promotion("standard"):
        expected = nn.LayerNorm(param_dtype=jnp.float64).apply(scale, inner.outputs)
    close(unroll(cell, params, XS)[1].outputs, expected)


def test_a_learned_state_is_where_every_sequence_begins():
    """Before the first step and after every reset; its gradient is that of the state."""
    cell = with_learned_state(lstm())
    params = noisy(cell)
    reset = np.arange(T) == 3

    def loss(params, **options):
        return jnp.sum(unroll(cell, params, XS, **options)[1].outputs ** 2)

    def by_hand(params):
        runs = [
            unroll(lstm(), params["cell"], xs, state=params["initial"])[1].outputs
            for xs in (XS[:3], XS[3:])
        ]
        return jnp.sum(jnp.concatenate(runs) ** 2)

    close(jax.grad(functools.partial(loss, reset=reset))(params), jax.grad(by_hand)(params))


def test_a_linear_cell_that_learns_its_state_is_linear():
    """Parallel over time, with the learned state at the start and after every reset."""
    cell = with_learned_state(cells.lru())
    assert isinstance(cell, LinearCell)
    assert not isinstance(with_learned_state(lstm()), LinearCell)
    params = noisy(cell)
    reset = np.arange(T) == 3
    loss = lambda method: (
        lambda params: jnp.sum(jnp.sin(method(cell, params, XS, reset=reset)[1].outputs))
    )
    close(*(method(cell, params, XS, reset=reset) for method in (unroll, unroll_parallel)))
    close(*(jax.grad(loss(method))(params) for method in (unroll, unroll_parallel)))


def test_a_layer_has_no_parallel_form():
    layer = chain(cells.mingru())
    with pytest.raises(
        TypeError, match=r"got <Layer chain\(mingru\)>: a Layer has no parallel form"
    ):
        unroll_parallel(layer, layer.init(KEY, D, H), XS)


# ---- Dropout and zoneout ------------------------------------------------------------------------

STEPS = 40


def inputs(seed=1):
    xs = jnp.asarray(np.random.default_rng(seed).normal(size=(STEPS, D)))
    return keyed(xs, jax.random.key(seed))


def test_without_keys_dropout_is_absent():
    """To the bit, and so with rates of zero and keys."""
    params = noisy(lstm())
    expected = unroll(lstm(), params, XS)
    cell = with_dropout(lstm(), input=0.5, recurrent=0.5, output=0.5)
    jax.tree.map(np.testing.assert_array_equal, unroll(cell, params, XS), expected)
    with_keys = unroll(with_dropout(lstm()), params, keyed(XS, KEY))
    jax.tree.map(np.testing.assert_array_equal, with_keys, expected)


def test_a_cell_that_draws_nothing_ignores_keys():
    params = noisy(lstm())
    got, expected = (unroll(lstm(), params, xs) for xs in (keyed(XS, KEY), XS))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("variational", [True, False])
def test_output_dropout(variational):
    """Outputs are zero or scaled to keep the mean; the state never notices."""
    rate, cell = 0.25, gru()
    dropped = with_dropout(cell, output=rate, variational=variational)
    params, xs = noisy(cell, 32), inputs()
    _, path = unroll(dropped, params, xs)
    _, whole = unroll(cell, params, xs.x)
    close(path.states, whole.states)
    zero = path.outputs == 0
    close(path.outputs, jnp.where(zero, 0.0, whole.outputs / (1 - rate)))
    same = bool(jnp.all(zero == zero[:1]))
    assert same == variational
    # 32 or 40 * 32 Bernoulli draws of mean 1/4: four deviations.
    draws = 32 if variational else zero.size
    assert abs(float(zero.mean()) - rate) < 4 * (rate * (1 - rate) / draws) ** 0.5


@pytest.mark.parametrize("variational", [True, False])
def test_input_dropout_is_dropping_inputs(variational):
    """There is one sequence of masked inputs that explains the states, found unit by unit."""
    cell = with_dropout(elman("identity"), input=0.5, variational=variational)
    params = {"kernel": jnp.eye(D), "recurrent_kernel": jnp.zeros((D, D)), "bias": jnp.zeros(D)}
    xs = inputs()
    _, path = unroll(cell, params, xs)
    seen = path.outputs / xs.x
    np.testing.assert_allclose(seen, np.round(seen))
    assert set(np.unique(np.round(seen))) == {0.0, 2.0}
    assert bool(jnp.all(jnp.round(seen) == jnp.round(seen[:1]))) == variational


def test_recurrent_dropout_masks_the_hidden_vector_that_a_step_reads():
    """Of an LSTM with constant gates: the memory is whole, what h feeds back is dropped."""
    cell = with_dropout(elman("identity"), recurrent=0.5)
    params = {"kernel": jnp.eye(D), "recurrent_kernel": jnp.eye(D), "bias": jnp.zeros(D)}
    xs = inputs()
    states = unroll(cell, params, xs)[1].states.hidden
    before = jnp.concatenate([jnp.zeros((1, D)), states[:-1]])
    factor = (states - xs.x)[1:] / before[1:]
    assert set(np.unique(np.round(factor, 9))) <= {0.0, 2.0}
    assert bool(jnp.all(jnp.round(factor) == jnp.round(factor[:1])))  # variational


def test_dropout_needs_a_hidden_part_to_drop():
    cell = with_dropout(stack(gru(), gru()), recurrent=0.5)
    params = cell.init(KEY, D, H)
    with pytest.raises(ValueError, match="has no part named hidden"):
        unroll(cell, params, keyed(XS, KEY))


def test_zoneout_keeps_units():
    """Each unit is the old or the new one; the expectation without keys."""
    rates = {"hidden": 0.25, "cell": 0.5}
    cell = with_zoneout(lstm(), rates)
    params = noisy(lstm(), 32)
    xs = inputs()
    state = unroll(cell, params, xs.x[:5])[0]
    new, _ = lstm()(params, state, xs.x[5])
    mean, output = cell(params, state, xs.x[5])
    for name, rate in rates.items():
        old, fresh = getattr(state, name), getattr(new, name)
        close(getattr(mean, name), rate * old + (1 - rate) * fresh)
        kept = jax.vmap(
            lambda key, name=name: getattr(
                cell(params, state, combinators.Keyed(xs.x[5], KEY, key))[0], name
            )
        )(jax.random.split(KEY, 200))
        is_old = kept == old[None]
        close(kept, jnp.where(is_old, old[None], fresh[None]))
        # 6400 draws: four deviations.
        assert abs(float(is_old.mean()) - rate) < 4 * (rate * (1 - rate) / is_old.size) ** 0.5
    close(output, mean.hidden)


def test_zoneout_draws_anew_at_every_step():
    cell = with_zoneout(elman("identity"), 0.5)
    params = {"kernel": jnp.eye(D), "recurrent_kernel": jnp.zeros((D, D)), "bias": jnp.zeros(D)}
    xs = inputs()
    states = unroll(cell, params, xs)[1].states.hidden
    kept = states != xs.x
    assert not bool(jnp.all(kept == kept[:1]))


@pytest.mark.parametrize("reverse", [False, True])
def test_keys_and_masks_of_a_sequence_through_a_nest(reverse):
    """With keys too the unroll is a plain loop, and each layer of a stack has its own masks."""
    cell = stack(
        with_dropout(gru(), input=0.3, recurrent=0.3, output=0.3),
        with_zoneout(with_dropout(lstm(), output=0.5, variational=False), 0.2),
        elman(),
    )
    params = noisy(cell)
    xs = keyed(XS, KEY)
    options = {"mask": np.arange(T) != 4, "reset": np.arange(T) == 2, "reverse": reverse}

    def loss(method):
        return lambda params: jnp.sum(jnp.sin(method(cell, params, xs, **options)[1].outputs))

    close(unroll(cell, params, xs, **options), unroll_static(cell, params, xs, **options))
    close(jax.grad(loss(unroll))(params), jax.grad(loss(unroll_static))(params))


def test_layers_of_a_stack_have_their_own_masks():
    cell = stack(*[with_dropout(elman("identity"), output=0.5)] * 2)
    eye = {"kernel": jnp.eye(64), "recurrent_kernel": jnp.zeros((64, 64)), "bias": jnp.zeros(64)}
    _, path = unroll(cell, (eye, eye), keyed(jnp.ones((2, 64)), KEY))
    lower, both = path.states.cells[1].hidden[0] != 0, path.outputs[0] != 0
    assert 0 < int(both.sum()) < int(lower.sum()) < 64


def test_a_batch_draws_for_each_sequence():
    cell = with_dropout(gru(), output=0.5)
    params = noisy(cell, 32)
    keys = jax.random.split(KEY, 3)
    xs = jnp.broadcast_to(XS, (3, *XS.shape))
    run = lambda x, key: unroll(cell, params, keyed(x, key))[1].outputs
    together = jax.jit(jax.vmap(run))(xs, keys)
    for i in range(3):
        close(together[i], run(xs[i], keys[i]))
    assert not bool(jnp.all((together[0] == 0) == (together[1] == 0)))


def test_the_keys_of_a_batch_as_one_state():
    """One key for each sample: then the batch draws what its samples draw alone."""
    cell, size = with_dropout(gru(), output=0.5), 3
    both, params = batched(cell, size), noisy(cell, 32)
    keys = jax.random.split(KEY, size)
    xs = jnp.stack([XS, -XS, 2 * XS], 1)
    _, path = unroll(both, params, jax.vmap(keyed, (1, 0), 1)(xs, keys))
    for i in range(size):
        close(path.outputs[:, i], unroll(cell, params, keyed(xs[:, i], keys[i]))[1].outputs)
    with pytest.raises(
        ValueError, match=r"samples needs its own keys, .*vmap\(keyed, \(1, 0\), 1\)"
    ):
        unroll(both, params, keyed(xs, KEY))


@pytest.mark.parametrize(
    "make", [with_dropout, lambda cell: with_zoneout(cell, 0.0)], ids=["dropout", "zoneout"]
)
def test_a_stochastic_cell_is_prepared_like_the_one_inside(make):
    """Once per sequence, not once per step."""
    inner = cells.householder_rnn()
    params = noisy(inner)
    ready = make(inner).prepare_params(params)
    assert ready.keys() == inner.prepare_params(params).keys() > params.keys()
    xs = keyed(XS, KEY)
    close(unroll(make(inner), ready, xs), unroll(inner, params, XS))
    program = str(jax.make_jaxpr(lambda params: unroll(make(inner), params, xs))(params))
    assert program.count("triangular_solve") == 1


@pytest.mark.parametrize("rate", [1.0, -0.1, True, "half", float("nan"), np.float32(1)])
def test_bad_rates(rate):
    with pytest.raises(ValueError, match=r"with_dropout: output must be a rate in \[0, 1\)"):
        with_dropout(gru(), output=rate)
    with pytest.raises(ValueError, match=r"with_zoneout: rates must be a rate in \[0, 1\)"):
        with_zoneout(gru(), rate)


def test_rates_of_numpy():
    assert with_dropout(gru(), output=np.float64(0.5)) is with_dropout(gru(), output=0.5)
    assert with_zoneout(gru(), np.float32(0.5)) is with_zoneout(gru(), 0.5)


@pytest.mark.parametrize("flag", ["no", 0, None])
def test_variational_is_a_bool(flag):
    with pytest.raises(TypeError, match="with_dropout: variational must be a bool, got"):
        with_dropout(gru(), output=0.5, variational=flag)


def test_zoneout_of_a_part_that_is_not_there():
    """Told by ``init``, and by a step to whoever has the parameters from elsewhere."""
    cell = with_zoneout(gru(), {"cell": 0.5})
    message = "with_zoneout: unknown part of the state of gru 'cell', known: hidden"
    with pytest.raises(ValueError, match=message):
        cell.init(KEY, D, H)
    with pytest.raises(ValueError, match=message):
        unroll(cell, gru().init(KEY, D, H), XS)
    with pytest.raises(ValueError, match=r"'hiden', known: .*; did you mean 'hidden'\?"):
        with_zoneout(lstm(), {"hiden": 0.5}).init(KEY, D, H)


@pytest.mark.parametrize(
    ("cell", "rates", "torn"),
    [
        (cells.slstm(), 0.1, "'cell', 'normaliser', 'stabiliser'"),
        (cells.slstm(), {"hidden": 0.1, "cell": 0.1}, "'cell'"),
        (cells.mlstm(), {"stabiliser": 0.1}, "'stabiliser'"),
        (stack(gru(), cells.mlstm()), 0.1, "'cell', 'normaliser', 'stabiliser'"),
        (batched(cells.mlstm(), 2), {"normaliser": 0.1}, "'normaliser'"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_zoneout_of_parts_in_units_of_another(cell, rates, torn):
    """A memory in units of exp(m_{t-1}) beside a new m would be another memory."""
    params = cell.init(KEY, D, H)
    kept = with_zoneout(cell, rates)
    for call in (
        lambda: kept.init(KEY, D, H),
        lambda: kept(params, cell.initial_state(params), jnp.ones((*cell.space, D))),
    ):
        with pytest.raises(ValueError, match=rf"in units of exp\(stabiliser\), .* \[{torn}\]"):
            call()


def test_zoneout_of_the_hidden_vector_of_an_slstm():
    cell = with_zoneout(cells.slstm(), {"hidden": 0.5, "cell": 0.0})
    params = cell.init(KEY, D, H)
    start = cell.initial_state(params)
    mean, new = (each(params, start, XS[0])[0] for each in (cell, cells.slstm()))
    close(mean, new._replace(hidden=0.5 * new.hidden))


# ---- Layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", ["concatenate", "sum"])
@pytest.mark.parametrize("flags", [{}, {"mask": np.arange(T) < 4}, {"reset": np.arange(T) == 3}])
def test_bidirectional_is_two_unrolls(merge, flags):
    layer = bidirectional(lstm(), gru(), merge=merge)
    params = noisy(layer)
    state, path = unroll(layer, params, XS, **flags)
    ahead = unroll(lstm(), params["forward"], XS, **flags)
    back = unroll(gru(), params["backward"], XS, reverse=True, **flags)
    close(state, BidirectionalState(ahead[0], back[0]))
    parts = ahead[1].outputs, back[1].outputs
    close(path.outputs, jnp.hstack(parts) if merge == "concatenate" else sum(parts))
    # Read the other way round, each direction is the other.
    _, swapped = unroll(
        bidirectional(gru(), lstm(), merge=merge),
        {"forward": params["backward"], "backward": params["forward"]},
        XS,
        reverse=True,
        **flags,
    )
    halves = jnp.split(path.outputs, 2, axis=1) if merge == "concatenate" else [path.outputs]
    expected = jnp.hstack(halves[::-1])
    close(swapped.outputs, expected)


def test_padding_does_not_reach_a_deep_bidirectional_network():
    """NaN in the padding: values and gradients are those of the shorter sequence."""
    layer = chain(bidirectional(lstm()), bidirectional(gru()))
    params = noisy(layer)
    mask = np.arange(T) < 4

    def loss(params, xs, mask=None):
        return jnp.sum(jnp.sin(unroll(layer, params, xs, mask=mask)[1].outputs))

    padded = jax.grad(loss)(params, XS.at[4:].set(jnp.nan), mask)
    close(padded, jax.grad(loss)(params, XS[:4]))


def test_states_and_taps_of_layers():
    """A chain continues from its state, and taps of zeros have the gradient of the states."""
    layer = chain(gru(), elman())
    params = noisy(layer)
    middle, first = unroll(layer, params, XS[:3])
    end, second = unroll(layer, params, XS[3:], state=middle)
    whole_end, whole = unroll(layer, params, XS)
    close((end, jnp.concatenate([first.outputs, second.outputs])), (whole_end, whole.outputs))
    assert isinstance(end, ChainState)

    taps = jax.tree.map(jnp.zeros_like, whole.states)
    loss = lambda taps: unroll(layer, params, XS, taps=taps)[1].outputs[-1].sum()
    stacked = lambda taps: (
        unroll(stack(gru(), elman()), params, XS, taps=StackState(taps.layers))[1].outputs[-1].sum()
    )
    top = jax.grad(loss)(taps).layers[1]
    close(top, jax.grad(stacked)(taps).layers[1])


@pytest.mark.parametrize("layer", [chain(gru(), gru()), bidirectional(gru())])
def test_a_state_of_another_layer(layer):
    params = layer.init(KEY, D, H)
    for wrong in (ChainState(()), (None,), unroll(gru(), gru().init(KEY, D, H), XS)[0]):
        with pytest.raises(ValueError, match="state: expected a"):
            unroll(layer, params, XS, state=wrong)


def test_unknown_merge():
    with pytest.raises(ValueError, match=r"merge must be one of .* got 'mean'"):
        bidirectional(gru(), merge="mean")


def test_segments_pass_through_layers():
    layer = chain(bidirectional(lstm()), gru())
    params = noisy(layer)
    loss = lambda params, **options: unroll(layer, params, XS, **options)[1].outputs.sum()
    close(jax.grad(functools.partial(loss, segment="sqrt"))(params), jax.grad(loss)(params))
