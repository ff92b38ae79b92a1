"""The cells and the scan in float64 NumPy, straight from the papers and without the package.

A reference is called like `rnn_jax.unroll`, without the cell, and returns plain tuples:

    reference(params, xs, state=, mask=, reset=, reverse=) -> (state, (states, outputs))

Shapes: T time, D input, H hidden; kernels are packed on the last axis in the package's order of
gates, i f g o and r z n, and applied from the right, x @ kernel.
"""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0.0),
    "sigmoid": sigmoid,
    "identity": lambda a: a,
}


def affine(params, x, hidden):
    """W x + U h + b of every gate: a list of (H,) vectors."""
    total = x @ params["kernel"] + hidden @ params["recurrent_kernel"] + params["bias"]
    return np.split(total, len(total) // len(hidden))


def elman_step(activation):
    """h' = phi(W x + U h + b). Elman (1990), doi:10.1207/s15516709cog1402_1."""
    phi = ACTIVATIONS[activation]

    def step(params, state, x):
        (hidden,) = state
        (a,) = affine(params, x, hidden)
        return (phi(a),), phi(a)

    return step


def lstm_step(params, state, x):
    """Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000)."""
    hidden, cell = state
    a_i, a_f, a_g, a_o = affine(params, x, hidden)
    cell = sigmoid(a_f) * cell + sigmoid(a_i) * np.tanh(a_g)
    hidden = sigmoid(a_o) * np.tanh(cell)
    return (hidden, cell), hidden


def gru_step(reset):
    """Cho et al. (2014), arXiv:1406.1078, equations 5 to 8, with biases.

    The reset gate acts on the state, U_n (r * h), in the paper ("before"), and on the product,
    r * (U_n h + b_hn), in cuDNN ("after").
    """

    def step(params, state, x):
        (hidden,) = state
        w_r, w_z, w_n = np.split(params["kernel"], 3, axis=1)
        u_r, u_z, u_n = np.split(params["recurrent_kernel"], 3, axis=1)
        b_r, b_z, b_n = np.split(params["bias"], 3)
        r = sigmoid(x @ w_r + hidden @ u_r + b_r)
        z = sigmoid(x @ w_z + hidden @ u_z + b_z)
        if reset == "after":
            recalled = r * (hidden @ u_n + params["recurrent_bias"])
        else:
            recalled = (r * hidden) @ u_n
        hidden = z * hidden + (1 - z) * np.tanh(x @ w_n + b_n + recalled)
        return (hidden,), hidden

    return step


def zeros_like_hidden(parts):
    """The usual initial state: so many zero vectors (H,)."""
    return lambda params: (np.zeros(params["recurrent_kernel"].shape[0]),) * parts


def float64(tree):
    """A (nested) dict of parameters, or an array, in float64 NumPy."""
    if isinstance(tree, dict):
        return {name: float64(value) for name, value in tree.items()}
    return np.asarray(tree, np.float64)


def sequence(step, parts=1, *, initial=None, output=None):
    """A reference from one step.

    Args:
      step: (params, state, x) -> (state, output), with a tuple as state.
      parts: the number of (H,) vectors in the state, zero at first; or else
      initial: the initial state from the parameters, a tuple of arrays.
      output: the output of a masked step, zeros of the shape of an output, from the parameters;
        by default shaped like the first part of the state.
    """
    initial = initial or zeros_like_hidden(parts)
    output = output or (lambda params: np.zeros_like(initial(params)[0]))

    def run(params, xs, state=None, mask=None, reset=None, reverse=False):
        params, xs = float64(params), np.asarray(xs, np.float64)
        first = initial(params)
        state = first if state is None else tuple(np.asarray(s, np.float64) for s in state)
        states, outputs = [None] * len(xs), [output(params)] * len(xs)
        for t in reversed(range(len(xs))) if reverse else range(len(xs)):
            # A new sequence begins at t: read backwards, one has ended before t - 1 is read.
            border = t + 1 if reverse else t
            if reset is not None and border < len(xs) and reset[border]:
                state = first
            if mask is None or mask[t]:
                state, outputs[t] = step(params, state, xs[t])
            states[t] = state
        return state, (
            tuple(np.stack(part) for part in zip(*states, strict=True)),
            np.stack(outputs),
        )

    return run


REFERENCES = {
    "elman": sequence(elman_step("tanh")),
    "elman_relu": sequence(elman_step("relu")),
    "elman_sigmoid": sequence(elman_step("sigmoid")),
    "elman_identity": sequence(elman_step("identity")),
    "lstm": sequence(lstm_step, parts=2),
    "gru": sequence(gru_step("after")),
    "gru_before": sequence(gru_step("before")),
}
"""By the name of the cell."""
