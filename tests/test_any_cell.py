"""Every instrument on cells that nobody thought of, beside dense matrices in plain NumPy.

The reference calls a cell as a function, step by step, and multiplies Jacobians by reverse-mode
autodiff; none of the code of the instruments is in it.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.flatten_util import ravel_pytree

import rnn_jax
from rnn_jax import interop
from rnn_jax.analysis import (
    bifurcation_scan,
    find_fixed_points,
    finite_time_spectrum,
    gradient_flow,
    jacobian_product,
    length_curve,
    length_sweep,
    loss_landscape,
    lyapunov_spectrum,
    scattered,
    step_jacobians,
)
from rnn_jax.cells import lookup
from rnn_jax.combinators import keyed, stack, with_zoneout
from rnn_jax.remedies import clip_cotangents, flossing_penalty, omega

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
D, H, T = 3, 4, 40


@rnn_jax.gated_cell(gates=("candidate", "overwrite"))
def own(params, state, drive):
    z, k = jnp.split(drive, 2)
    u_k = jnp.split(params["recurrent_kernel"], 2, axis=-1)[1]
    k = jax.nn.sigmoid(k + state.hidden @ u_k)
    return rnn_jax.HiddenState(jnp.tanh((1 - k) * state.hidden + k * jnp.tanh(z)))


class Damped(nn.RNNCellBase):
    """A cell in Flax that the library does not have."""

    features: int

    @nn.compact
    def __call__(self, carry, inputs):
        across = nn.Dense(self.features, name="across")(jnp.concatenate([carry, inputs]))
        rate = self.param("rate", nn.initializers.constant(0.3), (self.features,), jnp.float32)
        carry = carry + rate * (jnp.sin(across) - carry)
        return carry, carry

    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], self.features), jnp.float32)

    @property
    def num_feature_axes(self):
        return 1


def from_torch():
    torch.manual_seed(0)
    module = torch.nn.GRU(D, H, dtype=torch.float64)
    cell = rnn_jax.gru()
    return cell, interop.torch.params_from(cell, module.state_dict())


def drawn(cell):
    return cell, cell.init(jax.random.key(1), D, H, dtype=jnp.float64)


NETWORKS = {
    "stacked LSTM under zoneout": lambda: drawn(with_zoneout(stack(*[rnn_jax.lstm()] * 2), 0.2)),
    "orthogonal": lambda: drawn(lookup("cayley_rnn")),
    "imported from PyTorch": from_torch,
    "wrapped from Flax": lambda: drawn(interop.from_linen(Damped(H), D)),
    "written on the spot": lambda: drawn(own),
}


class Network:
    """A cell on some inputs, and all that a person would compute by hand."""

    def __init__(self, cell, params, xs):
        self.cell, self.params, self.xs = cell, params, xs
        first = cell.initial_state(params)
        flat, unravel = ravel_pytree(first)
        self.size, self.unravel = flat.size, unravel

        def step(params, flat, x):
            state, output = cell(params, unravel(flat), x)
            return ravel_pytree(state)[0], output

        self.step = jax.jit(step)
        by_state = jax.jit(jax.jacrev(lambda p, s, x: step(p, s, x)[0], 1))
        by_params = jax.jit(jax.jacrev(lambda p, s, x: step(p, s, x)[0], 0))
        self.jacobians, self.by_params, self.outputs, self.flat = [], [], [], [np.asarray(flat)]
        for t in range(jax.tree.leaves(xs)[0].shape[0]):
            x = jax.tree.map(lambda leaf, t=t: leaf[t], xs)
            before = self.flat[-1]
            self.jacobians.append(np.asarray(by_state(params, before, x)))
            self.by_params.append(by_params(params, before, x))
            after, output = self.step(params, before, x)
            self.flat.append(np.asarray(after))
            self.outputs.append(np.asarray(output))

    def product(self, lag, end=None):
        """J_end ... J_{end-lag+1}."""
        end = len(self.jacobians) if end is None else end
        steps = self.jacobians[end - lag : end]
        return functools.reduce(lambda product, step: step @ product, steps, np.eye(self.size))

    def by_output(self, vector, end=None):
        """d<vector, y_T>/ds_T, from a loop that sees s_{T-1} alone: y_T = read(s_T)."""
        end = len(self.jacobians) if end is None else end
        x = jax.tree.map(lambda leaf: leaf[end - 1], self.xs)
        drive = self.cell.project(self.params, x)
        read = lambda flat: vector @ self.cell.read(self.params, self.unravel(flat), drive)
        return np.asarray(jax.grad(read)(jnp.asarray(self.flat[end])))


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    cell, params = NETWORKS[request.param]()
    xs = jax.random.normal(jax.random.key(2), (T, D), jnp.float64)
    if cell.stochastic:
        xs = keyed(xs, jax.random.key(3))
    return Network(cell, params, xs)


@pytest.fixture
def readout(network):
    vector = np.random.default_rng(4).normal(size=network.outputs[0].size)
    return jnp.asarray(vector / np.linalg.norm(vector))


def compiled(function, *static, **options):
    return jax.jit(functools.partial(function, *static, **options))


def test_gradient_flow(network, readout):
    flow = compiled(gradient_flow, network.cell)(network.params, network.xs, readout)
    end = network.by_output(readout)
    norms = [np.linalg.norm(end @ network.product(T - t)) for t in range(T + 1)]
    np.testing.assert_allclose(np.exp(flow.log_norm), norms, rtol=1e-9)
    for part in flow.log_norm_by_part.values():
        assert np.all(part <= flow.log_norm + 1e-12)


def test_length_sweep(network, readout):
    lengths = (1, 7, T)
    sweep = compiled(length_sweep, network.cell, lengths=lengths)(
        network.params, network.xs, cotangent=readout
    )
    for i, length in enumerate(lengths):
        end = network.by_output(readout, length)
        gradient = end @ network.product(length, length)
        np.testing.assert_allclose(np.exp(sweep.log_norm[i]), np.linalg.norm(gradient), rtol=1e-9)


def test_length_curve(network):
    curve = compiled(length_curve, KEY, network.cell, tangents=network.size)(
        network.params, network.xs
    )
    norms = [np.linalg.norm(network.product(t, t)) / network.size**0.5 for t in range(T + 1)]
    np.testing.assert_allclose(np.exp(curve), norms, rtol=1e-9)


def test_step_jacobians(network):
    found = compiled(step_jacobians, network.cell)(network.params, network.xs)
    np.testing.assert_allclose(found, network.jacobians, atol=1e-13)


def test_jacobian_product_and_spectrum(network):
    lags = (1, 5, 12)
    product = compiled(jacobian_product, network.cell, lags=lags)(network.params, network.xs)
    spectrum = compiled(finite_time_spectrum, network.cell, lags=lags)(network.params, network.xs)
    assert bool(spectrum.converged.all())
    for i, lag in enumerate(lags):
        dense = network.product(lag)
        found = product.product.mantissa[i] * 2.0 ** float(product.product.exponent[i])
        np.testing.assert_allclose(found, dense, atol=1e-12 * np.abs(dense).max())
        values = np.linalg.svd(dense, compute_uv=False)
        log_values = np.asarray(spectrum.log_singular_values[i])
        # Dense products round away what is 1e-15 of the largest; compare what they resolve.
        seen = values > 1e-9 * values[0]
        np.testing.assert_allclose(np.exp(log_values[seen]), values[seen], rtol=1e-6)
        assert np.all(log_values[~seen] < np.log(values[0]) - 20)
        np.testing.assert_allclose(spectrum.log_frobenius[i], np.log(np.linalg.norm(dense)))


def test_lyapunov_spectrum(network):
    """A QR factorisation of the reference's matrices at each step, from the same frame."""
    result = compiled(lyapunov_spectrum, KEY, network.cell, burn_in=0, tangent_burn_in=0)(
        network.params, network.xs
    )
    frame = jax.random.normal(KEY, (network.size, network.size), jnp.float64)
    frame, _ = np.linalg.qr(np.asarray(frame))
    growth = []
    for jacobian in network.jacobians:
        frame, triangular = np.linalg.qr(jacobian @ frame)
        growth.append(np.log(np.abs(np.diag(triangular))))
    expected = np.mean(growth, axis=0)
    resolved = np.asarray(result.resolved)
    assert resolved[:2].all()
    np.testing.assert_allclose(
        np.asarray(result.exponents)[resolved], expected[resolved], rtol=1e-6, atol=1e-8
    )


def test_lyapunov_spectrum_after_a_burn_in(network):
    """A burn-in of the state is the later part of the same trajectory."""
    options = {"count": 2, "tangent_burn_in": 0}
    later = jax.tree.map(lambda leaf: leaf[8:], network.xs)
    state = network.unravel(jnp.asarray(network.flat[8]))
    whole = lyapunov_spectrum(KEY, network.cell, network.params, network.xs, burn_in=8, **options)
    part = lyapunov_spectrum(
        KEY, network.cell, network.params, later, burn_in=0, state=state, **options
    )
    np.testing.assert_allclose(whole.exponents, part.exponents, rtol=1e-9)


def test_fixed_points_and_their_eigenvalues(network):
    if network.cell.stochastic:
        network = Network(network.cell, network.params, network.xs.x)
    x = jnp.zeros(D)
    states = jax.vmap(network.unravel)(jnp.asarray(np.stack(network.flat[1:])))
    candidates = scattered(jax.random.key(5), states, 12, noise=0.1)
    points = find_fixed_points(network.cell, network.params, x, candidates)
    flat = np.asarray(jax.vmap(lambda state: ravel_pytree(state)[0])(points.states))
    assert points.fixed.any()
    assert points.hits.sum() + points.strayed + points.unconverged == 12
    for point, eigenvalues in zip(
        flat[points.fixed], points.eigenvalues[points.fixed], strict=True
    ):
        after, _ = network.step(network.params, point, x)
        np.testing.assert_allclose(after, point, atol=1e-8)
        dense = jax.jacrev(lambda s: network.step(network.params, s, x)[0])(point)
        expected = np.linalg.eigvals(np.asarray(dense))
        by_size = lambda values: np.sort(np.abs(np.asarray(values)))
        np.testing.assert_allclose(by_size(eigenvalues), by_size(expected), atol=1e-6)

    def weaker(scale):
        return jax.tree.map(lambda leaf: scale * leaf, network.params)

    scan = bifurcation_scan(network.cell, weaker, jnp.array([0.5, 1.0]), x, candidates)
    np.testing.assert_array_equal(scan[1].fixed, points.fixed)


def test_loss_landscape(network, readout):
    """A cross of two directions in parameter space against the loss at each point."""
    direction = jax.tree.map(lambda leaf: jnp.ones_like(leaf) / 10, network.params)

    def params_of(first, second):
        move = lambda leaf, d: leaf + (first - second) * d
        return jax.tree.map(move, network.params, direction)

    loss = lambda outputs: readout @ outputs[-1]
    grid = jnp.array([-0.5, 0.0, 0.5])
    landscape = loss_landscape(network.cell, params_of, grid, grid, network.xs, loss=loss)
    np.testing.assert_allclose(landscape.loss[1, 1], readout @ network.outputs[-1], rtol=1e-10)
    by_params = jax.grad(
        lambda shift: loss(rnn_jax.unroll(network.cell, params_of(*shift), network.xs)[1].outputs)
    )(jnp.array([0.5, 0.0]))
    np.testing.assert_allclose(
        np.exp(landscape.log_gradient_norm[2, 1]), np.linalg.norm(by_params), rtol=1e-8
    )


def test_omega_and_flossing(network, readout):
    found = compiled(omega, network.cell)(network.params, network.xs, readout)
    end = network.by_output(readout)
    norms = np.array([np.linalg.norm(end @ network.product(T - t)) for t in range(T + 1)])
    ratios = norms[:-1] / norms[1:]
    np.testing.assert_allclose(np.exp(found.log_ratio), ratios, rtol=1e-8)
    # The orthogonal network keeps every norm: its penalty is a rounding error.
    np.testing.assert_allclose(found.penalty, np.sum((ratios - 1) ** 2), rtol=1e-8, atol=1e-20)
    penalty = flossing_penalty(KEY, network.cell, network.params, network.xs, 2)
    exponents = lyapunov_spectrum(
        KEY, network.cell, network.params, network.xs, count=2, burn_in=0, tangent_burn_in=0
    ).exponents
    np.testing.assert_allclose(penalty, np.mean(np.square(exponents)), rtol=1e-10)


def test_clipping_inside_the_recurrence(network, readout):
    """No step lets more than the threshold through; without need it changes nothing."""

    def gradient(cell):
        loss = lambda params: readout @ rnn_jax.unroll(cell, params, network.xs)[1].outputs[-1]
        return jax.jit(jax.grad(loss))(network.params)

    exact = gradient(network.cell)
    for threshold, same in ((1e6, True), (1e-3, False)):
        found = gradient(clip_cotangents(network.cell, max_norm=threshold))
        close = [
            np.allclose(one, other, rtol=1e-9, atol=1e-12)
            for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
        ]
        assert all(close) == same
