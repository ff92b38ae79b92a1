"""Gated cells in float64 NumPy, straight from the papers and without the package."""

import numpy as np
from reference import ACTIVATIONS, sequence, sigmoid


def parts(params, count):
    """W, U and b of each gate, in the order in which they are packed."""
    packed = (params["kernel"], params["recurrent_kernel"], params["bias"])
    return zip(*(np.split(array, count, axis=-1) for array in packed), strict=True)


def mgu_step(form, reset_gate):
    """Zhou et al. (2016), arXiv:1603.09420, equations 7 to 9; and flax.linen's version of them."""

    def step(params, state, x):
        (hidden,) = state
        (w_f, u_f, b_f), (w_n, u_n, b_n) = parts(params, 2)
        forget = sigmoid(w_f.T @ x + u_f.T @ hidden + b_f)
        if not reset_gate:
            recalled = u_n.T @ hidden
        elif form == "paper":
            recalled = u_n.T @ (forget * hidden)
        else:
            recalled = forget * (u_n.T @ hidden + params["recurrent_bias"])
        candidate = np.tanh(w_n.T @ x + b_n + recalled)
        old, new = (hidden, candidate) if form == "linen" else (candidate, hidden)
        hidden = forget * old + (1 - forget) * new
        return (hidden,), hidden

    return step


def janet_step(beta):
    """Van der Westhuizen and Lasenby (2018), arXiv:1804.04849, their equations with beta."""

    def step(params, state, x):
        (hidden,) = state
        (w_f, u_f, b_f), (w_c, u_c, b_c) = parts(params, 2)
        s = w_f.T @ x + u_f.T @ hidden + b_f
        candidate = np.tanh(w_c.T @ x + u_c.T @ hidden + b_c)
        hidden = sigmoid(s) * hidden + (1 - sigmoid(s - beta)) * candidate
        return (hidden,), hidden

    return step


def updated_step(activation):
    """h' = z h + (1 - z) phi(..): Ravanelli et al. (2018), arXiv:1803.10225, with phi = ReLU and
    no batch normalisation; Collins et al. (2017), arXiv:1611.09913, with phi = tanh.
    """
    phi = ACTIVATIONS[activation]

    def step(params, state, x):
        (hidden,) = state
        (w_z, u_z, b_z), (w_n, u_n, b_n) = parts(params, 2)
        update = sigmoid(w_z.T @ x + u_z.T @ hidden + b_z)
        candidate = phi(w_n.T @ x + u_n.T @ hidden + b_n)
        hidden = update * hidden + (1 - update) * candidate
        return (hidden,), hidden

    return step


def minimal_rnn_step(params, state, x):
    """Chen (2017), arXiv:1711.06788."""
    (hidden,) = state
    embedded = np.tanh(params["kernel"].T @ x + params["input_bias"])
    update = sigmoid(
        params["recurrent_kernel"].T @ hidden + params["gate_kernel"].T @ embedded + params["bias"]
    )
    hidden = update * hidden + (1 - update) * embedded
    return (hidden,), hidden


def ran_step(output):
    """Lee, Levy and Zettlemoyer (2017), arXiv:1705.07393, equation 1."""
    g = ACTIVATIONS[output]

    def step(params, state, x):
        (cell,) = state
        (w_i, u_i, b_i), (w_f, u_f, b_f) = parts(params, 2)
        hidden = g(cell)
        content = params["content_kernel"].T @ x
        cell = (
            sigmoid(u_i.T @ hidden + w_i.T @ x + b_i) * content
            + sigmoid(u_f.T @ hidden + w_f.T @ x + b_f) * cell
        )
        return (cell,), g(cell)

    return step


def rhn_step(params, state, x):
    """Zilly et al. (2017), arXiv:1607.03474, equations 6 to 9, with the carry gate c = 1 - t."""
    (s,) = state
    w_h, w_t = np.split(params["kernel"], 2, axis=1)
    for layer, (kernel, bias) in enumerate(
        zip(params["recurrent_kernel"], params["bias"], strict=True)
    ):
        (r_h, r_t), (b_h, b_t) = np.split(kernel, 2, axis=1), np.split(bias, 2)
        first = float(layer == 0)
        h = np.tanh(first * w_h.T @ x + r_h.T @ s + b_h)
        t = sigmoid(first * w_t.T @ x + r_t.T @ s + b_t)
        s = h * t + s * (1 - t)
    return (s,), s


def rhn_initial(params):
    return (np.zeros(params["recurrent_kernel"].shape[1]),)


def elman_step(activation="tanh", residual=False, leak=1.0):
    """Yue et al. (2018), arXiv:1801.06105; Jaeger et al. (2007), 10.1016/j.neunet.2007.04.016."""
    phi = ACTIVATIONS[activation]

    def step(params, state, x):
        (hidden,) = state
        a = params["kernel"].T @ x + params["recurrent_kernel"].T @ hidden + params["bias"]
        hidden = (1 - leak) * hidden + leak * phi(a + hidden * residual)
        return (hidden,), hidden

    return step


REFERENCES = {
    "mgu": sequence(mgu_step("linen", True)),
    "mgu_no_reset": sequence(mgu_step("linen", False)),
    "mgu_paper": sequence(mgu_step("paper", True)),
    "mgu_paper_no_reset": sequence(mgu_step("paper", False)),
    "janet": sequence(janet_step(1.0)),
    "janet_beta_0.0": sequence(janet_step(0.0)),
    "lightgru": sequence(updated_step("relu")),
    "ugrnn": sequence(updated_step("tanh")),
    "minimal_rnn": sequence(minimal_rnn_step),
    "ran": sequence(ran_step("tanh")),
    "ran_identity": sequence(ran_step("identity")),
    "rhn": sequence(rhn_step, initial=rhn_initial),
    "rhn_depth_1": sequence(rhn_step, initial=rhn_initial),
    "elman_residual": sequence(elman_step(residual=True)),
    "elman_leak_0.4": sequence(elman_step(leak=0.4)),
    "elman_relu_residual_leak_0.4": sequence(elman_step("relu", residual=True, leak=0.4)),
}
"""By the name of the cell."""

OPTIONS = {
    "mgu": [
        {"reset_gate": reset_gate, "form": form}
        for form in ("linen", "paper")
        for reset_gate in (True, False)
    ],
    "janet": [{}, {"beta": 0.0}],
    "ran": [{"output": "tanh"}, {"output": "identity"}],
    "rhn": [{}, {"depth": 1}],
}
"""The options of a factory that make different cells, by the registered name."""

CASE_OPTIONS = {}
"""What a `Case` of a cell needs beside its reference, by the name of the cell."""
