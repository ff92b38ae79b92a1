"""Linear recurrences in float64 NumPy, straight from the papers and without the package."""

import numpy as np
from reference import sequence, sigmoid


def softplus(a):
    return np.logaddexp(0, a)


CANDIDATES = {
    "linear": lambda a: a,
    "positive": lambda a: np.where(a >= 0, a + 0.5, sigmoid(a)),
}


def gates(params, x, count):
    return np.split(x @ params["kernel"] + params["bias"], count)


def mingru_step(candidate):
    """Feng et al. (2024), arXiv:2410.01201, section 3.1 and the g of the log-space appendix."""

    def step(params, state, x):
        (hidden,) = state
        k_z, k_h = gates(params, x, 2)
        z = sigmoid(k_z)
        hidden = (1 - z) * hidden + z * CANDIDATES[candidate](k_h)
        return (hidden,), hidden

    return step


def minlstm_step(candidate):
    """Feng et al. (2024), arXiv:2410.01201, section 3.2, with the normalised gates."""

    def step(params, state, x):
        (hidden,) = state
        k_i, k_f, k_h = gates(params, x, 3)
        i, f = sigmoid(k_i), sigmoid(k_f)
        hidden = f / (f + i) * hidden + i / (f + i) * CANDIDATES[candidate](k_h)
        return (hidden,), hidden

    return step


def diagonal_step(discretise, copies):
    """z' = lam z + gam (B x), y = copies Re(C z) + D x, in complex128."""

    def step(params, state, x):
        multiplier, factor = discretise(params)
        z = multiplier * (state[0] + 1j * state[1])
        z = z + factor * (x @ (params["B_re"] + 1j * params["B_im"]))
        y = copies * (z @ (params["C_re"] + 1j * params["C_im"])).real + x @ params["D"]
        return (z.real, z.imag), y

    return sequence(
        step,
        initial=lambda params: (np.zeros(params["C_re"].shape[0]),) * 2,
        output=lambda params: np.zeros(params["C_re"].shape[1]),
    )


def lru_discretise(params):
    """Orvieto et al. (2023), arXiv:2303.06349, section 3.3 and 3.4."""
    multiplier = np.exp(-np.exp(params["nu_log"]) + 1j * np.exp(params["theta_log"]))
    return multiplier, np.exp(params["gamma_log"])


def s5_discretise(kind):
    """Smith, Warrington and Linderman (2023), arXiv:2208.04933, equation 6 and appendix."""

    def discretise(params):
        eigenvalue = params["Lambda_re"] + 1j * params["Lambda_im"]
        step = np.exp(params["log_step"])
        if kind == "zoh":
            multiplier = np.exp(eigenvalue * step)
            return multiplier, (multiplier - 1) / eigenvalue
        inverse = 1 / (1 - step / 2 * eigenvalue)
        return inverse * (1 + step / 2 * eigenvalue), inverse * step

    return discretise


def rglru_step(params, state, x):
    """De et al. (2024), arXiv:2402.19427, equations 1 to 4 and appendix A, behind x W + b."""
    (hidden,) = state
    value = x @ params["kernel"] + params["bias"]
    blocks = np.split(value, len(params["gate_kernel"]))
    both = [
        np.split(block @ kernel + bias, 2)
        for block, kernel, bias in zip(
            blocks, params["gate_kernel"], params["gate_bias"], strict=True
        )
    ]
    r = sigmoid(np.concatenate([r for r, _ in both]))
    i = sigmoid(np.concatenate([i for _, i in both]))
    a = np.exp(-8 * softplus(params["Lambda"]) * r)
    hidden = a * hidden + np.sqrt(1 - a**2) * (i * value)
    return (hidden,), hidden


def input_gates(step, count):
    """A reference of a cell whose state has the size of one of its gates."""
    return sequence(step, initial=lambda params: (np.zeros(len(params["bias"]) // count),))


REFERENCES = {
    "mingru": input_gates(mingru_step("linear"), 2),
    "mingru_positive": input_gates(mingru_step("positive"), 2),
    "minlstm": input_gates(minlstm_step("linear"), 3),
    "minlstm_positive": input_gates(minlstm_step("positive"), 3),
    "lru": diagonal_step(lru_discretise, 1),
    "s5": diagonal_step(s5_discretise("zoh"), 2),
    "s5_bilinear": diagonal_step(s5_discretise("bilinear"), 2),
    "rglru": input_gates(rglru_step, 1),
}
"""By the name of the cell."""

OPTIONS = {
    "mingru": [{}, {"candidate": "positive"}],
    "minlstm": [{}, {"candidate": "positive"}],
    "s5": [{}, {"discretisation": "bilinear"}],
}
"""The options of a factory that make different cells, by the registered name."""

CASE_OPTIONS = {}
"""What a `Case` of a cell needs beside its reference, by the name of the cell."""
