"""Values and gradients of torch.nn.RNN, LSTM and GRU on the same weights, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnn_jax import elman, gru, length_mask, lstm, unroll

T, B, D, H = 30, 4, 3, 5

PAIRS = {
    "elman": (elman(), functools.partial(torch.nn.RNN, nonlinearity="tanh")),
    "elman_relu": (elman("relu"), functools.partial(torch.nn.RNN, nonlinearity="relu")),
    "lstm": (lstm(), torch.nn.LSTM),
    "gru": (gru(), torch.nn.GRU),
}


def array(tensor):
    return jnp.asarray(tensor.detach().numpy())


def weights(module, suffix):
    """PyTorch's matrices act from the left; its gates have our order, i f g o and r z n."""
    w_ih, w_hh, b_ih, b_hh = (
        array(getattr(module, f"{name}_l0{suffix}"))
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    params = {"kernel": w_ih.T, "recurrent_kernel": w_hh.T, "bias": b_ih + b_hh}
    if isinstance(module, torch.nn.GRU):
        # The candidate's second bias stays apart: the reset gate multiplies it.
        params["bias"] = b_ih + b_hh.at[2 * H :].set(0)
        params["recurrent_bias"] = b_hh[2 * H :]
    return params


def weight_gradients(module, suffix):
    """The gradient of a sum of biases is that of either."""
    w_ih, w_hh, b_ih, b_hh = (
        array(getattr(module, f"{name}_l0{suffix}").grad)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    gradients = {"kernel": w_ih.T, "recurrent_kernel": w_hh.T, "bias": b_ih}
    if isinstance(module, torch.nn.GRU):
        gradients["recurrent_bias"] = b_hh[2 * H :]
    return gradients


@pytest.mark.parametrize("lengths", [None, [17, 30, 1, 8]], ids=["whole", "packed"])
@pytest.mark.parametrize("name", PAIRS)
def test_torch(name, lengths):
    """Both directions of a bidirectional module, each with its own weights."""
    cell, make = PAIRS[name]
    torch.manual_seed(0)
    module = make(D, H, bidirectional=True, dtype=torch.float64)
    draw = functools.partial(torch.randn, dtype=torch.float64)
    xs = draw(T, B, D, requires_grad=True)
    parts = 2 if name == "lstm" else 1
    states = [draw(2, B, H, requires_grad=True) for _ in range(parts)]

    given = tuple(states) if parts == 2 else states[0]
    if lengths is None:
        outputs, ends = module(xs, given)
    else:
        packed = pack_padded_sequence(xs, torch.tensor(lengths), enforce_sorted=False)
        outputs, ends = module(packed, given)
        outputs, _ = pad_packed_sequence(outputs, total_length=T)
    ends = ends if parts == 2 else (ends,)
    # A random functional of all that comes out.
    by_outputs, *by_ends = draw(T, B, 2 * H), *(draw(2, B, H) for _ in range(parts))
    loss = (outputs * by_outputs).sum() + sum(
        (end * by_end).sum() for end, by_end in zip(ends, by_ends, strict=True)
    )
    loss.backward()

    mask = None if lengths is None else length_mask(jnp.array(lengths), T)
    record = type(cell.initial_state(weights(module, "")))

    @functools.partial(jax.jit, static_argnames="reverse")
    def pull(params, state, xs, cotangents, reverse):
        def run(params, state, xs):
            def one(state, xs, mask):
                end, trajectory = unroll(cell, params, xs, state=state, mask=mask, reverse=reverse)
                return end, trajectory.outputs

            return jax.vmap(one, (0, 1, 1), (0, 1))(state, xs, mask)

        value, vjp = jax.vjp(run, params, state, xs)
        return value, vjp(cotangents)

    by_xs = jnp.zeros((T, B, D))
    # The same arithmetic in another order, thirty steps of it, on numbers of size one.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
    for direction, suffix in enumerate(("", "_reverse")):
        mine = np.s_[..., direction * H : (direction + 1) * H]
        (end, got), (by_params, by_state, by_xs_here) = pull(
            weights(module, suffix),
            record(*(array(state)[direction] for state in states)),
            array(xs),
            (record(*(array(by)[direction] for by in by_ends)), array(by_outputs)[mine]),
            reverse=direction == 1,
        )
        close(got, array(outputs)[mine])
        for part, expected in zip(end, ends, strict=True):
            close(part, array(expected)[direction])
        for part, state in zip(by_state, states, strict=True):
            close(part, array(state.grad)[direction])
        jax.tree.map(close, by_params, weight_gradients(module, suffix))
        by_xs += by_xs_here
    close(by_xs, array(xs.grad))
