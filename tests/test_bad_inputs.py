"""What a newcomer may get wrong, over the whole library: one line that says what came.

Each module has such cases beside its own tests; here are those that JAX or Python would answer in
its own words, or not at all, were they not looked at before anything is traced.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnn_jax import (
    HiddenState,
    analysis,
    cells,
    elman,
    interop,
    length_mask,
    lstm,
    models,
    remedies,
    schemes,
    sharding,
    tasks,
    training,
    unroll,
    unroll_truncated,
)
from rnn_jax.combinators import batched, bidirectional, chain, keyed, residual, stack

KEY = jax.random.key(0)
CELL, MEMORY = elman(), lstm()
PARAMS = CELL.init(KEY, 3, 4)
BOTH = bidirectional(CELL)
BOTH_PARAMS = BOTH.init(KEY, 3, 4)
STATE = CELL.initial_state(PARAMS)
STATES = HiddenState(jnp.ones((2, 4)))
XS = jnp.ones((7, 3))
READOUT = jnp.ones(4)
READER = models.Reader(MEMORY, 8)

BAD = [
    # cells
    (
        lambda: CELL.init(0, 3, 4),
        TypeError,
        "elman: key must be a key, as jax.random.key(0) is, got 0",
    ),
    (
        lambda: CELL.init(jax.random.split(KEY), 3, 4),
        ValueError,
        "elman: key must be a single key, got key<fry>[2]: use jax.vmap",
    ),
    (
        lambda: cells.lru().init(None, 3, 4),
        TypeError,
        "lru: key must be a key, as jax.random.key(0) is, got None",
    ),
    (
        lambda: CELL.init(jnp.zeros(2), 3, 4),
        TypeError,
        "elman: key must be a key, as jax.random.key(0) is, got float64[2]",
    ),
    (
        lambda: CELL.init(KEY, True, 4),
        ValueError,
        "elman: input_size must be an integer of at least 1, got True",
    ),
    (
        lambda: CELL.init(KEY, 3, (4,)),
        ValueError,
        "elman: hidden_size must be an integer of at least 1, got (4,)",
    ),
    (
        lambda: CELL.init(KEY, 3, 4, dtype=complex),
        ValueError,
        "elman: dtype must be a floating-point dtype, got <class 'complex'>",
    ),
    (
        lambda: CELL(PARAMS, STATE, [1.0, 2.0, 3.0]),
        TypeError,
        "elman: the input x must be an array, got [1.0, 2.0, 3.0]",
    ),
    (
        lambda: CELL(PARAMS, STATE, jnp.ones(3, complex)),
        TypeError,
        "elman: the input x is complex128[3], whose imaginary part would be lost; give "
        "real and imaginary part as two features",
    ),
    (lambda: cells.lookup(3), TypeError, "cell must be a name, got 3"),
    (
        lambda: cells.lookup("os:path"),
        ValueError,
        "cell 'os:path' cannot be made with options {}: 'module' object is not callable",
    ),
    # unroll
    (
        lambda: unroll(CELL, {}, XS),
        ValueError,
        "elman: params with the shapes {} are those of another cell",
    ),
    (
        lambda: unroll(MEMORY, PARAMS, XS),
        ValueError,
        "xs: the cell lstm cannot step on an input float64[3] with these params (lstm: "
        "params with the shapes {'bias': (4,), 'kernel': (3, 4), 'recurrent_kernel': (4, "
        "4)} are those of another cell; expected {'kernel': (3, 4), 'recurrent_kernel': "
        "(1, 4), 'bias': (4,)}); xs must be one sequence (T, D): use jax.vmap for a batch",
    ),
    (
        lambda: unroll(CELL, (PARAMS,), XS),
        ValueError,
        "elman: params with the shapes ({'bias': (4,), 'kernel': (3, 4), "
        "'recurrent_kernel': (4, 4)},) are those of another cell",
    ),
    (
        lambda: unroll(PARAMS, CELL, XS),
        TypeError,
        "cell must be a Cell, got {bias: float64[4], kernel: float64[3, 4], "
        "recurrent_kernel: float64[4, 4]} (factories are called: lstm(), not lstm)",
    ),
    (lambda: unroll(CELL, PARAMS, "text"), TypeError, "xs must be an array of numbers, got 'text'"),
    (
        lambda: unroll(CELL, PARAMS, np.full((7, 3), None)),
        TypeError,
        "xs must be an array of numbers, got object[7, 3]",
    ),
    (
        lambda: unroll(CELL, PARAMS, [[1.0, 2.0, 3.0]]),
        ValueError,
        "xs must have one leading time axis, got shapes [(), (), ()]",
    ),
    (
        lambda: unroll(CELL, PARAMS, XS.astype(complex)),
        ValueError,
        "xs: the cell elman cannot step on an input complex128[3] with these params "
        "(elman: the input x is complex128[3], whose imaginary part would be lost; give "
        "real and imaginary part as two features); xs must be one sequence (T, D): use "
        "jax.vmap for a batch",
    ),
    (
        lambda: unroll(CELL, PARAMS, XS, mask="yes"),
        TypeError,
        "mask must be an array of numbers, got 'yes'",
    ),
    (
        lambda: unroll(CELL, PARAMS, XS, mask=np.full(7, None)),
        TypeError,
        "mask must be an array of numbers, got object[7]",
    ),
    (
        lambda: unroll(CELL, PARAMS, XS, mask=[[True], [True, False]]),
        TypeError,
        "mask must be an array of numbers, got [[True], [True, False]]",
    ),
    (
        lambda: unroll(CELL, PARAMS, XS, reset=[2**70] * 7),
        TypeError,
        "reset must be an array of numbers, got [1180591620717411303424, "
        "1180591620717411303424, 1180591620717411303424, 1180591620717411303424, "
        "1180591620717411303424, 1180591620717411303424, ...]",
    ),
    (
        lambda: unroll(CELL, PARAMS, XS, state="zeros"),
        TypeError,
        "state must be an array of numbers, got 'zeros'",
    ),
    (
        lambda: unroll(CELL, PARAMS, XS, taps={"hidden": "zeros"}),
        TypeError,
        "taps must be an array of numbers, got 'zeros'",
    ),
    (lambda: unroll(CELL, PARAMS, XS, hoist="yes"), TypeError, "hoist must be a bool, got 'yes'"),
    (lambda: unroll(CELL, PARAMS, XS, reverse=1), TypeError, "reverse must be a bool, got 1"),
    (
        lambda: unroll(CELL, PARAMS, XS, segment=[2]),
        TypeError,
        "segment must be an integer, got [2]",
    ),
    (
        lambda: unroll_truncated(CELL, PARAMS, XS, window=2, hoist=None),
        TypeError,
        "hoist must be a bool, got None",
    ),
    (lambda: length_mask(None, 4), TypeError, "lengths must be an array of numbers, got None"),
    (lambda: length_mask("2", 4), TypeError, "lengths must be an array of numbers, got '2'"),
    (
        lambda: length_mask([[1], [1, 2]], 4),
        TypeError,
        "lengths must be an array of numbers, got [[1], [1, 2]]",
    ),
    # combinators
    (
        lambda: stack([CELL, MEMORY]),
        TypeError,
        "stack: [<Cell elman>, <Cell lstm>] is no cell (cells are given one by one, not in a list)",
    ),
    (
        lambda: chain((CELL, MEMORY)),
        TypeError,
        "chain: (<Cell elman>, <Cell lstm>) is no cell (cells are given one by one, not in a list)",
    ),
    (
        lambda: residual([CELL]),
        TypeError,
        "residual: [<Cell elman>] is no cell (cells are given one by one, not in a list)",
    ),
    (
        lambda: bidirectional([CELL]),
        TypeError,
        "bidirectional: [<Cell elman>] is no cell (cells are given one by one, not in a list)",
    ),
    (lambda: batched(CELL, [3]), TypeError, "size must be an integer, got [3]"),
    (
        lambda: bidirectional(CELL, merge=["sum"]),
        ValueError,
        "bidirectional: merge must be one of ['concatenate', 'sum'], got ['sum']",
    ),
    (
        lambda: stack(CELL, CELL).init(7, 3, 4),
        TypeError,
        "stack: key must be a key, as jax.random.key(0) is, got 7",
    ),
    (
        lambda: stack(CELL, CELL).init(KEY, 3, "44"),
        ValueError,
        "elman: hidden_size must be an integer of at least 1, got '4'",
    ),
    (
        lambda: chain(CELL, MEMORY).init(None, 3, 4),
        TypeError,
        "chain: key must be a key, as jax.random.key(0) is, got None",
    ),
    (
        lambda: bidirectional(CELL).init(jax.random.split(KEY, 3), 3, 4),
        ValueError,
        "bidirectional(elman, elman): key must be a single key, got key<fry>[3]: use jax.vmap",
    ),
    (lambda: unroll(BOTH, BOTH_PARAMS, XS, reverse=1), TypeError, "reverse must be a bool, got 1"),
    (
        lambda: unroll(BOTH, BOTH_PARAMS, XS, state=STATE),
        ValueError,
        "state: expected a BidirectionalState with 2 parts, got HiddenState(hidden=float64[4])",
    ),
    (
        lambda: unroll(chain(CELL), (PARAMS,), XS, taps=1),
        ValueError,
        "taps: expected a ChainState with 1 parts, got 1",
    ),
    (
        lambda: unroll(batched(CELL, 2), PARAMS, jnp.ones((7, 3, 3))),
        ValueError,
        "xs: the cell batched(elman) cannot step on an input float64[3, 3] with these "
        "params (batched(elman): the input x has shape (3, 3); its axes before the "
        "features must be (2,)); xs must be one sequence (T, D): use jax.vmap for a batch",
    ),
    (lambda: keyed(XS, 0), TypeError, "keyed: key must be a key, as jax.random.key(0) is, got 0"),
    (
        lambda: keyed(XS, jax.random.split(KEY)),
        ValueError,
        "keyed: key must be a single key, got key<fry>[2]: use jax.vmap",
    ),
    (
        lambda: keyed([[1.0, 2.0]], KEY),
        TypeError,
        "keyed: xs must be an array with a time axis, got [[1.0, 2.0]]",
    ),
    (
        lambda: keyed(jnp.float32(1), KEY),
        TypeError,
        "keyed: xs must be an array with a time axis, got float32[]",
    ),
    # schemes
    (
        lambda: schemes.orthogonal(None),
        ValueError,
        "orthogonal: gain must be a finite number, got None",
    ),
    (
        lambda: schemes.sparse(connections=2.5),
        TypeError,
        "sparse: connections must be an integer, got 2.5",
    ),
    (
        lambda: schemes.critical(0.1, ensemble=3),
        TypeError,
        "critical: ensemble must be a function, got 3",
    ),
    # instruments
    (
        lambda: analysis.gradient_flow(CELL, PARAMS, XS, "readout"),
        TypeError,
        "cotangent must be an array of numbers, got 'readout'",
    ),
    (
        lambda: analysis.gradient_flow(CELL, PARAMS, XS, jnp.ones(4, complex)),
        TypeError,
        "cotangent must be real, got complex128[4]",
    ),
    (
        lambda: analysis.gradient_flow(CELL, PARAMS, XS, loss=3),
        TypeError,
        "loss must be a function of the outputs, got 3",
    ),
    (
        lambda: analysis.gradient_flow(CELL, PARAMS, XS, loss=lambda outputs: outputs),
        TypeError,
        "loss must return one real number, got float64[7, 4]",
    ),
    (
        lambda: analysis.gradient_flow(CELL, PARAMS, XS, loss=lambda outputs: None),
        TypeError,
        "loss must return one real number, got None",
    ),
    (
        lambda: analysis.gradient_flow(
            CELL, PARAMS, XS, loss=lambda outputs: (outputs.sum(), outputs)
        ),
        TypeError,
        "loss must return one real number, got (float64[], float64[7, 4])",
    ),
    (
        lambda: analysis.length_sweep(CELL, PARAMS, XS, None, READOUT),
        TypeError,
        "lengths must be an array of numbers, got None",
    ),
    (
        lambda: analysis.length_sweep(CELL, PARAMS, XS, "35", READOUT),
        TypeError,
        "lengths must be an array of numbers, got '35'",
    ),
    (
        lambda: analysis.length_curve(0, CELL, PARAMS, XS),
        TypeError,
        "length_curve: key must be a key, as jax.random.key(0) is, got 0",
    ),
    (
        lambda: analysis.length_curve(CELL, PARAMS, XS, KEY),
        TypeError,
        "cell must be a Cell, got {bias: float64[4], kernel: float64[3, 4], "
        "recurrent_kernel: float64[4, 4]} (factories are called: lstm(), not lstm)",
    ),
    (
        lambda: analysis.lyapunov_spectrum(0, CELL, PARAMS, XS),
        TypeError,
        "lyapunov_spectrum: key must be a key, as jax.random.key(0) is, got 0",
    ),
    (
        lambda: analysis.lyapunov_spectrum(KEY, CELL, PARAMS, XS),
        ValueError,
        "xs: after 500 + 200 steps of burn-in at least 32 must remain, got 0",
    ),
    (
        lambda: analysis.lyapunov_spectrum(KEY, CELL, PARAMS, XS, burn_in=3, tangent_burn_in=99),
        ValueError,
        "xs: after 3 + 99 steps of burn-in at least 32 must remain, got 0",
    ),
    (
        lambda: analysis.kaplan_yorke_dimension([]),
        ValueError,
        "exponents must be a vector, got float64[0]",
    ),
    (
        lambda: analysis.kaplan_yorke_dimension(jnp.ones((2, 2))),
        ValueError,
        "exponents must be a vector, got float64[2, 2]",
    ),
    (
        lambda: analysis.kaplan_yorke_dimension("text"),
        TypeError,
        "exponents must be an array of numbers, got 'text'",
    ),
    (
        lambda: analysis.find_fixed_points(CELL, PARAMS, None, STATES),
        TypeError,
        "x must be an array of numbers, got None",
    ),
    (
        lambda: analysis.bifurcation_scan(CELL, PARAMS, jnp.ones(2), READOUT, STATES),
        TypeError,
        "params_of must be a function of a value, got {bias: float64[4], kernel: "
        "float64[3, 4], recurrent_kernel: float64[4, 4]}",
    ),
    (
        lambda: analysis.scattered(0, STATES, 3),
        TypeError,
        "scattered: key must be a key, as jax.random.key(0) is, got 0",
    ),
    (
        lambda: analysis.scattered(KEY, HiddenState(jnp.ones((0, 4))), 3),
        ValueError,
        "states must have a leading axis that is not empty, got HiddenState(hidden=float64[0, 4])",
    ),
    (
        lambda: analysis.scattered(KEY, STATES, 3, noise=-1),
        ValueError,
        "noise must be finite and at least 0, got -1",
    ),
    (
        lambda: analysis.loss_landscape(CELL, PARAMS, READOUT, READOUT, XS, jnp.sum),
        TypeError,
        "params_of must be a function of two numbers, got {bias: float64[4], kernel: "
        "float64[3, 4], recurrent_kernel: float64[4, 4]}",
    ),
    (
        lambda: analysis.loss_landscape(
            CELL, lambda a, b: PARAMS, READOUT, READOUT, XS, lambda outputs: outputs
        ),
        TypeError,
        "loss must return one real number, got float64[7, 4]",
    ),
    # remedies
    (
        lambda: remedies.watch("clip", 3),
        TypeError,
        "watch: link must be an optax.GradientTransformation, got 3",
    ),
    (
        lambda: remedies.flossing_penalty(None, CELL, PARAMS, XS, 2),
        TypeError,
        "lyapunov_spectrum: key must be a key, as jax.random.key(0) is, got None",
    ),
    (
        lambda: remedies.omega(CELL, PARAMS, XS, loss="sum"),
        TypeError,
        "loss must be a function of the outputs, got 'sum'",
    ),
    # sharding
    (
        lambda: sharding.over_batch(jnp.multiply, axis=-1),
        ValueError,
        "axis must be at least 0, got -1",
    ),
    (
        lambda: sharding.over_batch(jnp.multiply, axis="batch"),
        TypeError,
        "axis must be an integer, got 'batch'",
    ),
    (
        lambda: sharding.over_batch(jnp.multiply, devices=0),
        ValueError,
        "devices must be at least 1, got 0",
    ),
    (
        lambda: sharding.over_batch(jnp.multiply)(READOUT, 3.0),
        ValueError,
        "all arrays of a batch need examples on axis 0, got (float64[],)",
    ),
    (
        lambda: sharding.over_batch(jnp.multiply, axis=1)(READOUT, READOUT),
        ValueError,
        "all arrays of a batch need examples on axis 1, got (float64[4],)",
    ),
    (
        lambda: sharding.over_batch(jnp.multiply)(READOUT, jnp.ones(0)),
        ValueError,
        "a batch needs at least one example, got none",
    ),
    # tasks
    (
        lambda: tasks.adding().sample(KEY, 2.5),
        TypeError,
        "adding: steps must be an integer, got 2.5",
    ),
    (
        lambda: tasks.adding().sample(KEY, "10"),
        TypeError,
        "adding: steps must be an integer, got '10'",
    ),
    (
        lambda: tasks.adding().sample(KEY, 10, 3.5),
        TypeError,
        "adding: length must be an integer, got 3.5",
    ),
    (
        lambda: tasks.of_varied_length("adding", 3),
        TypeError,
        "of_varied_length: task must be a Task, as adding() is, got 'adding'",
    ),
    (lambda: tasks.characters(b"bytes"), TypeError, "text must be a str, got b'bytes'"),
    (lambda: tasks.next_character(None, 3), TypeError, "text must be a str, got None"),
    (
        lambda: tasks.next_character("", 3),
        ValueError,
        "text: is empty, expected at least two different characters",
    ),
    (
        lambda: tasks.source(["white_noise"], 3),
        ValueError,
        "unknown source ['white_noise'], known: white_noise, python_docs, digits, file; "
        "did you mean 'white_noise'?",
    ),
    (
        lambda: tasks.forecasting("sunspots"),
        TypeError,
        "forecasting: series must be a Series, got 'sunspots'",
    ),
    (
        lambda: tasks.from_file("a\0b", 4),
        ValueError,
        "'a\\x00b': embedded null byte, expected the path of a file",
    ),
    # models
    (
        lambda: models.Reader(MEMORY, 8, tokens=0).init(KEY, jnp.arange(5)),
        ValueError,
        "tokens must be at least 1, got 0",
    ),
    (
        lambda: models.Reader(MEMORY, 8, tokens=5, embedding=0).init(KEY, jnp.arange(5)),
        ValueError,
        "embedding must be at least 1, got 0",
    ),
    (
        lambda: models.Reader(MEMORY, 8, dropout=1.5).init(KEY, XS),
        ValueError,
        "Reader: dropout must be a rate in [0, 1), got 1.5",
    ),
    (
        lambda: models.ManyToOne(MEMORY, 2).init(KEY, XS),
        TypeError,
        "reader must be a Reader, as Reader(lstm(), 8) is, got <Cell lstm>",
    ),
    (
        lambda: models.ManyToOne(READER, 0).init(KEY, XS),
        ValueError,
        "output_size must be at least 1, got 0",
    ),
    (
        lambda: models.ManyToOne(READER, "2").init(KEY, XS),
        TypeError,
        "output_size must be an integer, got '2'",
    ),
    (
        lambda: models.OneToOne((), 2).init(KEY, jnp.float32(1)),
        ValueError,
        "OneToOne: inputs must have features (D,), got float32[]",
    ),
    (
        lambda: models.OneToOne((0,), 2).init(KEY, READOUT),
        ValueError,
        "OneToOne: features must be at least 1, got 0",
    ),
    (
        lambda: models.OneToOne((3,), 2, dropout=2.0).init(KEY, READOUT),
        ValueError,
        "OneToOne: dropout must be a rate in [0, 1), got 2.0",
    ),
    (lambda: models.attend(READOUT, None), TypeError, "attend: memory must be a Memory, got None"),
    (
        lambda: models.attend(jnp.ones(3), models.Memory(jnp.ones((5, 4)), jnp.ones((5, 4)))),
        ValueError,
        "attend: expected a query (..., E), keys (S, E) and values (S, F), got "
        "(float64[3], float64[5, 4], float64[5, 4])",
    ),
    (
        lambda: models.attend(READOUT, models.Memory(jnp.ones((5, 4)), jnp.ones((6, 4)))),
        ValueError,
        "attend: expected a query (..., E), keys (S, E) and values (S, F), got "
        "(float64[4], float64[5, 4], float64[6, 4])",
    ),
    (
        lambda: models.greedy(lambda state, token: (state, READOUT), None, "text", 5),
        TypeError,
        "first must be an array of numbers, got 'text'",
    ),
    (
        lambda: models.sampled(0, lambda state, token: (state, READOUT), None, 0, 5),
        TypeError,
        "sampled: key must be a key, as jax.random.key(0) is, got 0",
    ),
    # training
    (
        lambda: training.make_optimiser("adam", "fast"),
        TypeError,
        "learning_rate must be a number, got 'fast'",
    ),
    (
        lambda: training.make_optimiser("adam", 1e-3, clip=None),
        TypeError,
        "clip must be a number, got None",
    ),
    (lambda: training.updates(3, 3), TypeError, "updates: update must be a function, got 3"),
    (lambda: training.updates(jnp.add, 0), ValueError, "updates: count must be at least 1, got 0"),
    (
        lambda: training.updates(jnp.add, 1.5),
        TypeError,
        "updates: count must be an integer, got 1.5",
    ),
    (
        lambda: training.Checkpoints("checkpoints", keep=0),
        ValueError,
        "keep must be at least 1, got 0",
    ),
    # interop
    (
        lambda: interop.save("lstm.safetensors", PARAMS, metadata=3),
        TypeError,
        "metadata must be a dict of strings, got 3",
    ),
    (
        lambda: interop.torch_weights.params_from(MEMORY, {"weight_ih_l0": None}),
        ValueError,
        "torch.nn: not the entries of this network; missing: weight_hh_l0, bias_ih_l0, bias_hh_l0",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=range(len(BAD)))
def test_the_line_says_what_came(tmp_path, monkeypatch, call, error, message):
    monkeypatch.chdir(tmp_path)
    # What the other tests forbid is what a user has: no message may rely on it.
    with (
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(error) as caught,
    ):
        call()
    assert str(caught.value) == message  # without JAX's note on its tracebacks
    assert not any(tmp_path.iterdir())


def test_a_list_of_cells_is_refused_and_cells_stay_memoised():
    """What cannot be hashed must not get past the memory of the factories."""
    assert stack(CELL, MEMORY) is stack(CELL, MEMORY)
    with pytest.raises(TypeError, match="one by one"):
        chain([CELL, MEMORY])


def test_numbers_of_files_are_not_read(tmp_path):
    """An integer is a path to ``open``: the file with that number, which is somebody else's."""
    with open(tmp_path / "mine", "w+b") as mine:
        with pytest.raises(TypeError, match=r"os\.PathLike object.* not '?int'?$"):
            interop.load(mine.fileno())
        mine.write(b"still open")
