"""Dynamical systems as cells, in float64 NumPy, from the papers and without the package."""

import numpy as np
from reference import ACTIVATIONS, elman_step, sequence, sigmoid

# ---- Elementwise recurrence and identity --------------------------------------------------------


def indrnn_step(activation):
    """h' = phi(W x + u * h + b), one unit after the other. Li et al. (2018), equation 3."""
    phi = ACTIVATIONS[activation]

    def step(params, state, x):
        (hidden,) = state
        u, w, b = (params[name] for name in ("recurrent_weight", "kernel", "bias"))
        new = np.array([phi(x @ w[:, n] + u[n] * hidden[n] + b[n]) for n in range(len(hidden))])
        return (new,), new

    return step


# ---- Differential equations ---------------------------------------------------------------------


def antisymmetric_step(gated, epsilon=0.01, gamma=0.01):
    """Chang et al. (2019), equations 10 to 12. Vectors are columns there, as M h here."""

    def step(params, state, x):
        (hidden,) = state
        w = params["recurrent_kernel"].T
        matrix = w - w.T - gamma * np.eye(len(hidden))
        inputs = params["kernel"].T @ x + params["bias"]
        if gated:
            of_gate, of_hidden = inputs[: len(hidden)], inputs[len(hidden) :]
            gate = sigmoid(matrix @ hidden + of_gate)
        else:
            gate, of_hidden = 1.0, inputs
        hidden = hidden + epsilon * gate * np.tanh(matrix @ hidden + of_hidden)
        return (hidden,), hidden

    return step


def cornn_step(implicit, dt=0.042, gamma=2.7, epsilon=4.7):
    """Rusch and Mishra (2021), equation 3, the implicit part as the linear system that it is."""

    def step(params, state, x):
        y, z = state
        force = np.tanh(
            params["recurrent_kernel"].T @ y
            + params["velocity_kernel"].T @ z
            + params["kernel"].T @ x
            + params["bias"]
        )
        if implicit:
            # Unknowns (y', z'): y' - dt z' = y, and z' + dt epsilon z' = z + dt (force - gamma y).
            eye = np.eye(len(y))
            system = np.block([[eye, -dt * eye], [0 * eye, (1 + dt * epsilon) * eye]])
            right = np.concatenate([y, z + dt * force - dt * gamma * y])
            y, z = np.split(np.linalg.solve(system, right), 2)
        else:
            z = z + dt * force - dt * gamma * y - dt * epsilon * z
            y = y + dt * z
        return (y, z), y

    return step


def lem_step(dt=1.0):
    """Rusch et al. (2022), equation 3."""

    def step(params, state, x):
        y, z = state
        v_1, v_2, v_z, v_y = np.split(params["kernel"].T, 4)
        w_1, w_2, w_z, w_y = np.split(params["recurrent_kernel"].T, 4)
        b_1, b_2, b_z, b_y = np.split(params["bias"], 4)
        step_z = dt * sigmoid(w_1 @ y + v_1 @ x + b_1)
        step_y = dt * sigmoid(w_2 @ y + v_2 @ x + b_2)
        z = (1 - step_z) * z + step_z * np.tanh(w_z @ y + v_z @ x + b_z)
        y = (1 - step_y) * y + step_y * np.tanh(w_y @ z + v_y @ x + b_y)
        return (y, z), y

    return step


# ---- Orthogonal matrices ------------------------------------------------------------------------


def skew(params):
    size = len(params["bias"])
    entries = iter(params["skew"])
    matrix = np.zeros((size, size))
    for i in range(size):
        for j in range(i + 1, size):
            matrix[i, j] = next(entries)
            matrix[j, i] = -matrix[i, j]
    return matrix


def exponential(params):
    """exp(A) of a skew-symmetric A, by the eigenvalues of the Hermitian -iA."""
    angles, vectors = np.linalg.eigh(-1j * skew(params))
    return ((vectors * np.exp(1j * angles)) @ vectors.conj().T).real


def cayley(negative=0.5):
    """(I + A)^-1 (I - A) D. Helfrich, Willmott and Ye (2018), equation 3."""

    def matrix(params):
        a = skew(params)
        eye = np.eye(len(a))
        count = round(negative * len(a))
        d = np.diag([1.0] * (len(a) - count) + [-1.0] * count)
        return np.linalg.inv(eye + a) @ (eye - a) @ d

    return matrix


def householder(params):
    """One reflection after the other. Mhammedi et al. (2017), equations 3 and 4."""
    size, count = params["reflectors"].shape
    matrix = np.eye(size)
    for j in range(count):
        v = np.append(np.zeros(j), params["reflectors"][j:, j])
        matrix = matrix @ (np.eye(size) - 2 * np.outer(v, v) / (v @ v))
    return matrix


def modrelu(a, b):
    return np.where(np.abs(a) + b > 0, np.sign(a) * (np.abs(a) + b), 0.0)


def leaky_relu(a, b):
    return np.where(a + b < 0, 0.1 * (a + b), a + b)


def tanh(a, b):
    return np.tanh(a + b)


def orthogonal_step(matrix, phi):
    def step(params, state, x):
        (hidden,) = state
        hidden = phi(x @ params["kernel"] + hidden @ matrix(params), params["bias"])
        return (hidden,), hidden

    return step


def orthogonal(matrix, phi):
    return sequence(
        orthogonal_step(matrix, phi), initial=lambda params: (np.zeros_like(params["bias"]),)
    )


def indrnn(activation):
    return sequence(
        indrnn_step(activation), initial=lambda params: (np.zeros_like(params["bias"]),)
    )


REFERENCES = {
    "irnn": sequence(elman_step("relu")),
    "indrnn": indrnn("relu"),
    "indrnn_tanh": indrnn("tanh"),
    "antisymmetric": sequence(antisymmetric_step(gated=False)),
    "antisymmetric_gated": sequence(antisymmetric_step(gated=True)),
    "cornn": sequence(cornn_step(implicit=True), parts=2),
    "cornn_explicit": sequence(cornn_step(implicit=False), parts=2),
    "lem": sequence(lem_step(), parts=2),
    "exprnn": orthogonal(exponential, modrelu),
    "exprnn_tanh": orthogonal(exponential, tanh),
    "cayley_rnn": orthogonal(cayley(), modrelu),
    "householder_rnn": orthogonal(householder, leaky_relu),
}
"""By the name of the cell."""

OPTIONS = {
    "indrnn": [{}, {"activation": "tanh"}],
    "antisymmetric": [{}, {"gated": True}],
    "cornn": [{}, {"damping": "explicit"}],
    "exprnn": [{}, {"activation": "tanh"}],
}
"""The options of a factory that make different cells, by the registered name."""

CASE_OPTIONS = {}
"""What a `Case` of a cell needs beside its reference, by the name of the cell."""
