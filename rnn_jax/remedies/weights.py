"""Penalties on the recurrent kernels themselves, gate by gate."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rnn_jax.base import Params


def soft_orthogonality(params: Params) -> jax.Array:
    """The sum of ||U_g^T U_g - I||_F^2 over all gates of all recurrent kernels, a scalar.

    Zero where every gate block keeps every norm. It holds a kernel near an orthogonal one where
    `schemes.orthogonal` only begins there and ``exprnn`` never leaves.

    Args:
      params: any pytree with leaves named ``recurrent_kernel``, such as the parameters of a cell or
        of a stack. A kernel is (H, G * H), made of G square blocks; leading axes (the layers of
        `rhn`) are further kernels. The taps of a convolution would be taken for such, which says
        nothing of its norm. Kernels are taken as they are stored.

    Raises:
      ValueError: for params without a recurrent kernel, or with one whose blocks are not square
        (a projected LSTM).

    References:
      Vorontsov, Trabelsi, Kadoury and Pal (2017), "On orthogonality and learning recurrent networks
      with long term dependencies", arXiv:1702.00071.

    >>> import jax.numpy as jnp
    >>> soft_orthogonality({"recurrent_kernel": jnp.hstack([jnp.eye(2), 2 * jnp.eye(2)])}).item()
    18.0
    """

    def of(block: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(block.T @ block - jnp.eye(len(block), dtype=block.dtype)))

    return _sum_over_blocks("soft_orthogonality", of, params)


def spectral_penalty(
    params: Params, target: jax.typing.ArrayLike = 1.0, *, hinge: bool = False
) -> jax.Array:
    """The sum of (sigma_max(U_g) - target)^2 over all gates of all recurrent kernels, a scalar.

    It bounds every step of a vanilla network, ||ds_t/ds_{t-1}|| <= max|phi'| sigma_max(U). Where
    the largest singular value is not unique, the gradient is that of one of them.

    Args:
      params: as in `soft_orthogonality`.
      target: for the largest singular value; may be traced.
      hinge: whether only values above the target count.

    Raises:
      ValueError: as `soft_orthogonality`.

    References:
      Yoshida and Miyato (2017), "Spectral norm regularization for improving the generalizability of
      deep learning", arXiv:1705.10941, with target 0.

    >>> import jax.numpy as jnp
    >>> params = {"recurrent_kernel": jnp.hstack([0.5 * jnp.eye(2), 3 * jnp.eye(2)])}
    >>> spectral_penalty(params).item(), spectral_penalty(params, hinge=True).item()
    (4.25, 4.0)
    """

    def of(block: jax.Array) -> jax.Array:
        excess = jnp.linalg.norm(block, 2) - jnp.asarray(target, block.dtype)
        return jnp.square(jnp.maximum(excess, 0) if hinge else excess)

    return _sum_over_blocks("spectral_penalty", of, params)


def _sum_over_blocks(
    caller: str, of: Callable[[jax.Array], jax.Array], params: Params
) -> jax.Array:
    by_path = dict(jax.tree_util.tree_leaves_with_path(params))
    is_named = lambda path, name: jax.tree_util.keystr(path[-1:], simple=True) == name
    projected = {path[:-1] for path in by_path if is_named(path, "projection_kernel")}
    kernels = {path: leaf for path, leaf in by_path.items() if is_named(path, "recurrent_kernel")}
    if not kernels:
        names = ", ".join(jax.tree_util.keystr(path) for path in by_path)
        raise ValueError(f"{caller}: params have no recurrent_kernel, only {names}")
    total = []
    for path, kernel in kernels.items():
        rows, columns = kernel.shape[-2:] if kernel.ndim > 1 else (1, 0)
        if path[:-1] in projected or not columns or columns % rows:
            raise ValueError(
                f"{caller}: params{jax.tree_util.keystr(path)} of shape {kernel.shape} is not made "
                "of square blocks, one for each gate"
            )
        blocks = kernel.reshape(-1, rows, columns // rows, rows).swapaxes(1, 2)
        total.append(jnp.sum(jax.vmap(of)(blocks.reshape(-1, rows, rows))))
    return jnp.sum(jnp.stack(total))
