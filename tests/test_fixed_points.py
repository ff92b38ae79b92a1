"""Fixed points, bifurcations, orbits and loss landscapes against closed forms and NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import rnn_jax
from rnn_jax import HiddenState, elman, gru, lstm
from rnn_jax.analysis import (
    bifurcation_scan,
    find_fixed_points,
    loss_landscape,
    orbits,
    scattered,
    step_jacobians,
)
from rnn_jax.combinators import stack, with_zoneout

KEY = jax.random.key(0)


def scalar(w, b=0.0):
    """The parameters of a single unit that nothing drives."""
    w, b = jnp.asarray(w, float), jnp.asarray(b, float)
    return {
        "kernel": jnp.zeros((1, 1)),
        "recurrent_kernel": w.reshape(1, 1),
        "bias": b.reshape(1),
    }


def line(low, high, count):
    return HiddenState(jnp.linspace(low, high, count)[:, None])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_latch_of_bengio():
    """A11: tanh(w x) is bistable above w = 1; x* and its gradient factor w (1 - x*^2)."""
    for w, x_star, factor in [
        (1.25, 0.710412, 0.619144),
        (2.0, 0.957504, 0.166372),
        (4.0, 0.999326, 0.005393),
    ]:
        points = find_fixed_points(elman(), scalar(w), jnp.zeros(1), line(-1.5, 1.5, 21))
        order = np.argsort(points.states.hidden[:, 0])
        # The table has six digits.
        np.testing.assert_allclose(points.states.hidden[order, 0], [-x_star, 0, x_star], atol=6e-7)
        np.testing.assert_allclose(points.eigenvalues[order, 0], [factor, w, factor], atol=6e-7)
        assert points.unstable_dimensions[order].tolist() == [0, 1, 0]
        assert points.fixed.all()
        assert (points.hits.sum(), points.strayed, points.unconverged) == (21, 0, 0)


def test_saddle_nodes_of_a_sigmoid_unit():
    """A9: x = w sigmoid(x) + b has three solutions between b1 and b2 and one outside; here in
    h = sigmoid(x), whose map is sigmoid(w h + b)."""
    for w, b1, b2 in [(5, -2.65561, -2.34439), (6, -3.41509, -2.58491), (8, -5.06568, -2.93432)]:
        values = np.array([b1 - 1e-4, b1 + 1e-4, b2 - 1e-4, b2 + 1e-4])
        scan = bifurcation_scan(
            elman("sigmoid"),
            lambda b, w=w: scalar(w, b),
            values,
            jnp.zeros(1),
            line(0.0, 1.0, 41),
            # sqrt(1e-4) apart where two of them are born.
            separation=1e-4,
        )
        assert [int(points.fixed.sum()) for points in scan] == [1, 3, 3, 1]
        assert [int((points.unstable_dimensions[points.fixed] == 0).sum()) for points in scan] == [
            1,
            2,
            2,
            1,
        ]
        # What is left of the pair just outside is a slow point between them.
        for points, b in ((scan[0], values[0]), (scan[3], values[3])):
            (slow,) = np.flatnonzero(~points.fixed)
            h = points.states.hidden[slow, 0]
            reference = scipy.optimize.minimize_scalar(
                lambda h, w=w, b=b: (sigmoid(w * h + b) - h) ** 2,
                bounds=(h - 0.05, h + 0.05),
                method="bounded",
                options={"xatol": 1e-10},
            )
            # Where the slope of the square is flat to sqrt(eps).
            assert abs(h - reference.x) < 1e-5
            np.testing.assert_allclose(points.log_speed[slow], np.log(reference.fun) / 2, rtol=1e-6)


def network(size, gain, seed=0):
    rng = np.random.default_rng(seed)
    kernel = gain * rng.normal(size=(size, size)) / np.sqrt(size)
    return {
        "kernel": jnp.asarray(rng.normal(size=(3, size))),
        "recurrent_kernel": jnp.asarray(kernel),
        "bias": jnp.asarray(0.1 * rng.normal(size=size)),
    }


def test_every_point_solves_the_equations_of_numpy():
    params = network(8, 3.0, seed=3)
    start = HiddenState(jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (300, 8))))
    x = jnp.array([0.1, -0.2, 0.05])
    points = find_fixed_points(elman(), params, x, start)
    x, u, w, b = map(np.asarray, (x, params["recurrent_kernel"], params["kernel"], params["bias"]))
    found = points.states.hidden[points.fixed]
    assert len(found) >= 3
    np.testing.assert_allclose(np.tanh(x @ w + found @ u + b), found, atol=1e-12)
    for hidden, eigenvalues, unstable in zip(
        found, points.eigenvalues, points.unstable_dimensions, strict=False
    ):
        expected = np.linalg.eigvals(np.diag(1 - hidden**2) @ u.T)
        expected = expected[np.argsort(-np.abs(expected))]
        np.testing.assert_allclose(np.abs(eigenvalues), np.abs(expected), atol=1e-9)
        assert unstable == np.sum(np.abs(expected) > 1)
    # None twice.
    gaps = np.linalg.norm(found[:, None] - found[None], axis=-1) + np.eye(len(found))
    assert gaps.min() > 1e-3
    # Another root finder from the same places finds nothing that is not there.
    for candidate in np.asarray(start.hidden)[:40]:
        other = scipy.optimize.root(lambda h: np.tanh(x @ w + h @ u + b) - h, candidate, tol=1e-13)
        if other.success:
            assert np.linalg.norm(found - other.x, axis=1).min() < 1e-6


@pytest.mark.parametrize(
    "cell",
    [lstm(), gru(), stack(gru(), with_zoneout(lstm(), 0.1))],
    ids=lambda cell: cell.name,
)
def test_any_cell_rests_there(cell):
    """One more step moves nothing, and the eigenvalues are those of the step's Jacobian."""
    params = cell.init(KEY, 3, 5, dtype=jnp.float64)
    xs = jax.random.normal(jax.random.key(1), (50, 3))
    _, trajectory = rnn_jax.unroll(cell, params, xs)
    candidates = scattered(jax.random.key(2), trajectory.states, 20, noise=0.3)
    points = find_fixed_points(cell, params, xs[0], candidates)
    assert points.hits.sum() + points.strayed + points.unconverged == 20
    assert points.fixed[0]
    assert points.log_speed[0] < -25
    first = jax.tree.map(lambda leaf: leaf[0], points.states)
    moved, _ = cell(params, first, xs[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), moved, first)
    jacobian = step_jacobians(cell, params, xs[:1], state=jax.tree.map(jnp.asarray, first))[0]
    expected = np.sort(np.abs(np.linalg.eigvals(np.asarray(jacobian))))[::-1]
    # Of a matrix that is not normal: 1e-16 in its entries is more in its eigenvalues.
    np.testing.assert_allclose(np.abs(points.eigenvalues[0]), expected, atol=1e-6)


def test_a_line_of_fixed_points_and_a_search_cut_short():
    """U = I rests everywhere; a search of one iteration says that it has not arrived."""
    params = {"kernel": jnp.zeros((1, 2)), "recurrent_kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    candidates = HiddenState(jnp.array([[0.0, 1.0], [2.0, 0.0], [2.0, 1e-5]]))
    points = find_fixed_points(elman("identity"), params, jnp.zeros(1), candidates)
    assert points.hits.tolist() == [1, 2]
    assert np.all(points.log_speed == -np.inf)
    np.testing.assert_allclose(points.eigenvalues, 1)
    short = find_fixed_points(elman(), scalar(2.0), jnp.zeros(1), line(0.3, 0.4, 5), iterations=1)
    assert short.unconverged == 5
    assert short.states.hidden.shape == short.eigenvalues.shape == (0, 1)


def test_a_search_that_strays_says_so():
    """A linear network that expands rests at -1 / (g - 1), far outside of these candidates."""
    points = find_fixed_points(elman("identity"), scalar(1.1, 1.0), jnp.zeros(1), line(0.0, 1.0, 4))
    assert (len(points.hits), points.strayed, points.unconverged) == (0, 4, 0)
    points = find_fixed_points(
        elman("identity"), scalar(1.1, 1.0), jnp.zeros(1), line(-20.0, 1.0, 4)
    )
    np.testing.assert_allclose(points.states.hidden, [[-10]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_a_bad_candidate_spoils_no_other(bad):
    """1e200 is finite, but not the square by which it would be measured."""
    good = line(-1.0, 1.0, 9)
    expected = find_fixed_points(elman(), scalar(2.0), jnp.zeros(1), good)
    candidates = HiddenState(jnp.concatenate([good.hidden, jnp.full((1, 1), bad)]))
    points = find_fixed_points(elman(), scalar(2.0), jnp.zeros(1), candidates)
    np.testing.assert_allclose(points.states.hidden, expected.states.hidden, atol=1e-12)
    assert points.hits.tolist() == expected.hits.tolist()
    assert (points.strayed, points.unconverged) == (0, 1)
    alone = find_fixed_points(
        elman(), scalar(2.0), jnp.zeros(1), HiddenState(jnp.full((1, 1), bad))
    )
    assert (len(alone.hits), alone.strayed, alone.unconverged) == (0, 0, 1)


def test_orbits_are_plain_iteration():
    gains = np.array([-3.0, -0.5, 1.5])
    visited = orbits(elman(), scalar, gains, jnp.zeros(1), line(-0.5, 0.7, 3), transient=50, keep=4)
    assert visited.hidden.shape == (3, 3, 4, 1)
    for gain, starts in zip(gains, np.asarray(visited.hidden)[..., 0], strict=True):
        for start, orbit in zip(np.linspace(-0.5, 0.7, 3), starts, strict=True):
            x = start
            for step in range(54):
                x = np.tanh(gain * x)
                if step >= 50:
                    np.testing.assert_allclose(orbit[step - 50], x, atol=1e-12)


def cliff(w, b, steps=50):
    """E and its gradient by w and b, of Pascanu's figure 6, forward in float64."""
    x = 0.5
    dx = np.zeros(2)
    for _ in range(steps):
        s = sigmoid(x)
        dx = w * s * (1 - s) * dx + np.array([s, 1.0])
        x = w * s + b
    s = sigmoid(x)
    return (s - 0.7) ** 2, np.linalg.norm(2 * (s - 0.7) * s * (1 - s) * dx)


def test_the_cliff_of_pascanu():
    """A10, in h = sigmoid(x): h_t = sigmoid(w h_{t-1} + b), E = (h_T - 0.7)^2."""
    weights, biases = np.linspace(4, 7, 7), np.linspace(-3, -2, 9)
    surface = loss_landscape(
        elman("sigmoid"),
        scalar,
        weights,
        biases,
        jnp.zeros((50, 1)),
        lambda outputs: (outputs[-1, 0] - 0.7) ** 2,
        state=HiddenState(jnp.array([sigmoid(0.5)])),
    )
    for i, w in enumerate(weights):
        for j, b in enumerate(biases):
            loss, norm = cliff(w, b)
            np.testing.assert_allclose(surface.loss[i, j], loss, rtol=1e-9, atol=1e-15)
            np.testing.assert_allclose(surface.log_gradient_norm[i, j], np.log(norm), atol=1e-6)


def test_a_gradient_beyond_floating_point():
    values = jnp.array([3.0], jnp.float32)
    far = loss_landscape(
        elman("identity"),
        lambda w, b: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), scalar(w, b)),
        values,
        jnp.zeros(1, jnp.float32),
        jnp.zeros((1000, 1), jnp.float32),
        lambda outputs: outputs[-1, 0],
    )
    # dL/db = sum of 3^k, k < 1000; dL/dw = 0 at h = 0.
    np.testing.assert_allclose(far.log_gradient_norm, 1000 * np.log(3) - np.log(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: find_fixed_points(lstm(), lstm().init(KEY, 1, 2), jnp.zeros(1), line(0, 1, 3)),
         ["candidates", "lstm", "cell="]),
        (lambda: find_fixed_points(elman(), scalar(1.0), jnp.zeros(1), HiddenState(jnp.zeros(1))),
         ["candidates", "leading axis"]),
        (lambda: find_fixed_points(
            elman(), scalar(1.0), jnp.zeros(1), HiddenState(jnp.zeros((0, 1)))),
         ["candidates"]),
        (lambda: find_fixed_points(elman(), scalar(1.0), jnp.zeros(2), line(0, 1, 3)), ["xs"]),
        (lambda: orbits(elman(), scalar, jnp.ones(2), jnp.zeros(1), line(0, 1, 3), transient=-1),
         ["transient", "-1"]),
        (lambda: orbits(elman(), scalar, jnp.ones(2), jnp.zeros(1), line(0, 1, 3), keep=0),
         ["keep", "0"]),
        *((lambda name=name, value=value: find_fixed_points(
            elman(), scalar(1.0), jnp.zeros(1), line(0, 1, 3), **{name: value}), [name, str(value)])
          for name in ("tolerance", "separation") for value in (-1.0, np.nan, np.inf)),
        (lambda: find_fixed_points(
            elman(), scalar(1.0), jnp.zeros(1), line(0, 1, 3), iterations=-1),
         ["iterations", "-1"]),
        *((lambda scan=scan, values=values: scan(
            elman(), scalar, values, jnp.zeros(1), line(0, 1, 3)), ["values", str(shape)])
          for scan in (bifurcation_scan, orbits) for values, shape in (([], (0,)), (1.0, ()))),
        (lambda: scattered(KEY, line(0, 1, 3), 0), ["count", "0"]),
        (lambda: loss_landscape(
            elman(), scalar, jnp.ones((2, 2)), jnp.ones(2), jnp.ones((3, 1)), jnp.sum),
         ["first", "(2, 2)"]),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, words))):
        call()
