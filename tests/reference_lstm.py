"""The LSTM's relatives in float64 NumPy, straight from the papers and without the package."""

import itertools

import numpy as np
from reference import float64, sequence, sigmoid


def standardised(z):
    return (z - z.mean()) / np.sqrt(z.var() + 1e-5)


def lstm_step(params, state, x):
    """Every form of it, told by the parameters.

    Peepholes: Gers, Schraudolph and Schmidhuber (2002). Projection: Sak et al. (2014),
    arXiv:1402.1128. Coupled gates: Greff et al. (2017), arXiv:1503.04069. Layer normalisation:
    Ba et al. (2016), arXiv:1607.06450, equations 20 to 22, with the sum of all shifts as bias.
    """
    hidden, cell = state
    by_input, by_hidden = x @ params["kernel"], hidden @ params["recurrent_kernel"]
    if "cell_gain" in params:
        by_input = params["input_gain"] * standardised(by_input)
        by_hidden = params["recurrent_gain"] * standardised(by_hidden)
    blocks = (by_input + by_hidden + params["bias"]).reshape(-1, len(cell))
    coupled = len(blocks) == 3
    a_f, a_g, a_o = blocks[-3:]
    weights = params.get("peephole", np.zeros((2 if coupled else 3) * len(cell)))
    p_f, p_o = weights.reshape(-1, len(cell))[-2:]
    f = sigmoid(a_f + p_f * cell)
    i = 1 - f if coupled else sigmoid(blocks[0] + weights[: len(cell)] * cell)
    cell = f * cell + i * np.tanh(a_g)
    o = sigmoid(a_o + p_o * cell)
    seen = cell
    if "cell_gain" in params:
        seen = params["cell_gain"] * standardised(cell) + params["cell_shift"]
    hidden = o * np.tanh(seen)
    if "projection_kernel" in params:
        hidden = hidden @ params["projection_kernel"]
    return (hidden, cell), hidden


def lstm_initial(params):
    """h of the rows of the recurrent kernel, c of those of the projection, if there is one."""
    hidden = np.zeros(len(params["recurrent_kernel"]))
    return hidden, np.zeros(len(params.get("projection_kernel", hidden)))


PROJECTION = 3
"""Of four hidden units."""

LSTM_OPTIONS = [
    {"peephole": p, "projection": r, "coupled": c, "layer_norm": n}
    for p, r, c, n in itertools.product([False, True], [None, PROJECTION], *[[False, True]] * 2)
    if not (p and n)
]
"""All of them that go together."""


def lstm_name(options):
    parts = {
        "peephole": options["peephole"],
        "coupled": options["coupled"],
        f"projection{PROJECTION}": options["projection"],
        "layer_norm": options["layer_norm"],
    }
    return "_".join(["lstm", *(part for part, chosen in parts.items() if chosen)])


# ---- xLSTM: Beck et al. (2024), arXiv:2405.04517 ------------------------------------------------


def log_forget(forget, a):
    return -np.logaddexp(0.0, -a) if forget == "sigmoid" else a


def slstm_step(forget):
    """Equations 8 to 17, m_0 = -infinity standing for an empty memory."""

    def step(params, state, x):
        hidden, c, n, m = state
        m = np.where(n == 0, -np.inf, m)
        total = x @ params["kernel"] + hidden @ params["recurrent_kernel"] + params["bias"]
        a_i, a_f, a_z, a_o = np.split(total, 4)
        log_f = log_forget(forget, a_f)
        new_m = np.maximum(log_f + m, a_i)
        i, f = np.exp(a_i - new_m), np.exp(log_f + m - new_m)
        c, n = f * c + i * np.tanh(a_z), f * n + i
        hidden = sigmoid(a_o) * c / n
        return (hidden, c, n, new_m), hidden

    return step


def mlstm_inputs(params, x, heads):
    """q, k, v, o, a_i, a_f of one input, the first four per head (N, d)."""
    size = len(params["bias"]) // 4
    w_q, w_k, w_v, w_o = np.split(params["kernel"], 4, axis=1)
    b_q, b_k, b_v, b_o = np.split(params["bias"], 4)
    q = x @ w_q + b_q
    k = x @ w_k / np.sqrt(size // heads) + b_k
    v = x @ w_v + b_v
    o = sigmoid(x @ w_o + b_o)
    a_i, a_f = np.split(x @ params["gate_kernel"] + params["gate_bias"], 2)
    return *(z.reshape(heads, -1) for z in (q, k, v, o)), a_i, a_f


def mlstm_step(heads, forget):
    """Equations 19 to 27, one head after the other, m_0 = -infinity for an empty memory."""

    def step(params, state, x):
        cells, normalisers, stabilisers = (part.copy() for part in state)
        q, k, v, o, a_i, a_f = mlstm_inputs(params, x, heads)
        output = np.empty_like(o)
        for h in range(heads):
            log_f = log_forget(forget, a_f[h])
            kept = log_f + (stabilisers[h] if cells[h].any() else -np.inf)
            m = max(kept, a_i[h])
            f, i = np.exp(kept - m), np.exp(a_i[h] - m)
            cells[h] = f * cells[h] + i * np.outer(v[h], k[h])
            normalisers[h] = f * normalisers[h] + i * k[h]
            stabilisers[h] = m
            output[h] = o[h] * (cells[h] @ q[h]) / max(abs(normalisers[h] @ q[h]), np.exp(-m))
        return (cells, normalisers, stabilisers), output.ravel()

    return step


def mlstm_initial(heads):
    def initial(params):
        size = len(params["bias"]) // 4 // heads
        return np.zeros((heads, size, size)), np.zeros((heads, size)), np.zeros(heads)

    return initial


def mlstm(heads, forget="sigmoid"):
    zero = lambda params: np.zeros(len(params["bias"]) // 4)
    return sequence(mlstm_step(heads, forget), initial=mlstm_initial(heads), output=zero)


def slstm_unstabilised(params, xs, forget):
    """The outputs by equations 8 to 14, which overflow: exponentials as they are written."""
    params = float64(params)
    hidden = c = n = np.zeros(len(params["recurrent_kernel"]))
    outputs = []
    for x in xs:
        total = x @ params["kernel"] + hidden @ params["recurrent_kernel"] + params["bias"]
        a_i, a_f, a_z, a_o = np.split(total, 4)
        i, f = np.exp(a_i), sigmoid(a_f) if forget == "sigmoid" else np.exp(a_f)
        c, n = f * c + i * np.tanh(a_z), f * n + i
        hidden = sigmoid(a_o) * c / n
        outputs.append(hidden)
    return np.stack(outputs)


def mlstm_unstabilised(params, xs, heads, forget):
    """The outputs by equations 19 to 27 without a stabiliser."""
    params = float64(params)
    cells, normalisers, _ = mlstm_initial(heads)(params)
    outputs = []
    for x in xs:
        q, k, v, o, a_i, a_f = mlstm_inputs(params, x, heads)
        i, f = np.exp(a_i), sigmoid(a_f) if forget == "sigmoid" else np.exp(a_f)
        for h in range(heads):
            cells[h] = f[h] * cells[h] + i[h] * np.outer(v[h], k[h])
            normalisers[h] = f[h] * normalisers[h] + i[h] * k[h]
            o[h] *= cells[h] @ q[h] / max(abs(normalisers[h] @ q[h]), 1.0)
        outputs.append(o.ravel())
    return np.stack(outputs)


def mlstm_parallel(params, xs, heads, forget):
    """The outputs of all steps at once, quadratic in T: the appendix's parallel form."""
    params = float64(params)
    steps = [mlstm_inputs(params, x, heads) for x in xs]
    q, k, v, o, a_i, a_f = (np.stack(part) for part in zip(*steps, strict=True))
    outputs = np.empty_like(o)
    for h in range(heads):
        cumulative = np.cumsum(log_forget(forget, a_f[:, h]))
        # Entry (t, s): what is left at t of what was stored at s.
        logs = cumulative[:, None] - cumulative[None, :] + a_i[None, :, h]
        logs = np.where(np.tri(len(xs), dtype=bool), logs, -np.inf)
        m = logs.max(axis=1, keepdims=True)
        scores = (q[:, h] @ k[:, h].T) * np.exp(logs - m)
        scale = np.maximum(np.abs(scores.sum(axis=1, keepdims=True)), np.exp(-m))
        outputs[:, h] = o[:, h] * ((scores / scale) @ v[:, h])
    return outputs.reshape(len(xs), -1)


# ---- Convolutional: Shi et al. (2015), arXiv:1506.04214 -----------------------------------------


def convolution(x, kernel):
    """Stride 1, zeros beyond the border: the cross-correlation that deep learning calls so."""
    *sizes, _ = x.shape
    *window, _, features = kernel.shape
    low = [(k - 1) // 2 for k in window]
    padded = np.pad(x, [*((a, k - 1 - a) for a, k in zip(low, window, strict=True)), (0, 0)])
    y = np.zeros((*sizes, features))
    for offset in np.ndindex(*window):
        part = tuple(slice(o, o + size) for o, size in zip(offset, sizes, strict=True))
        y += padded[part] @ kernel[offset]
    return y


def convlstm_step(params, state, x):
    """Equation 3, without peepholes if there are none."""
    hidden, cell = state
    a = convolution(x, params["kernel"]) + convolution(hidden, params["recurrent_kernel"])
    a_i, a_f, a_g, a_o = np.split(a + params["bias"], 4, axis=-1)
    weights = params.get("peephole", np.zeros((*cell.shape[:-1], 3 * cell.shape[-1])))
    p_i, p_f, p_o = np.split(weights, 3, axis=-1)
    i, f = sigmoid(a_i + p_i * cell), sigmoid(a_f + p_f * cell)
    cell = f * cell + i * np.tanh(a_g)
    hidden = sigmoid(a_o + p_o * cell) * np.tanh(cell)
    return (hidden, cell), hidden


def convlstm(shape):
    def initial(params):
        return (np.zeros((*shape, params["recurrent_kernel"].shape[-2])),) * 2

    return sequence(convlstm_step, initial=initial)


GRIDS = [
    {},
    {"shape": (4, 3), "kernel_size": (2, 3), "peephole": True},
    {"shape": (2, 3, 2), "kernel_size": 2},
]
"""In one, two and three dimensions, with odd and even kernels."""

REFERENCES = {
    **{lstm_name(options): sequence(lstm_step, initial=lstm_initial) for options in LSTM_OPTIONS},
    "slstm": sequence(slstm_step("sigmoid"), parts=4),
    "slstm_exp": sequence(slstm_step("exp"), parts=4),
    "mlstm": mlstm(1),
    "mlstm_heads2_exp": mlstm(2, "exp"),
    "convlstm": convlstm((16,)),
    "convlstm_4x3_kernel2x3_peephole": convlstm((4, 3)),
    "convlstm_2x3x2_kernel2x2x2": convlstm((2, 3, 2)),
}
"""By the name of the cell."""
del REFERENCES["lstm"]  # reference.py has the plain cell

OPTIONS = {
    # The plain cell, each option alone, and the largest combinations.
    "lstm": [o for o in LSTM_OPTIONS if sum(map(bool, o.values())) != 2],
    "slstm": [{}, {"forget": "exp"}],
    "mlstm": [{}, {"heads": 2, "forget": "exp"}],
    "convlstm": GRIDS,
}
"""The options of a factory that make different cells, by the registered name."""

CASE_OPTIONS = {
    # Where the variance of what is normalised is small, so is the scale on which the cell curves,
    # and a central difference is far from the slope: larger weights, larger variances.
    **{lstm_name(o): {"noise": 1.0} for o in LSTM_OPTIONS if o["layer_norm"]},
    "convlstm": {"input_shape": (16, 3)},
    "convlstm_4x3_kernel2x3_peephole": {"input_shape": (4, 3, 3)},
    "convlstm_2x3x2_kernel2x2x2": {"input_shape": (2, 3, 2, 3)},
}
"""What a `Case` of a cell needs beside its reference, by the name of the cell."""
