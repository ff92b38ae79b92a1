"""Checkpoints by Orbax, each with a digest by which a damaged one is known."""

import contextlib
import hashlib
import logging
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import jax
import numpy as np

from rnn_jax.arguments import check_positive

_T = TypeVar("_T")


class Checkpoints:
    """The newest states of a run in a folder.

    A checkpoint is written under a temporary name and renamed, so a run that is killed leaves
    whole ones only. What was damaged later is known by the SHA-256 of its leaves, or as what Orbax
    cannot read: with a warning it is set aside, as ``damaged.STEP``, and the one before it used.
    What Orbax logs beside that is not shown. A signal that comes meanwhile, such as Ctrl-C, is
    answered when Orbax, whose threads cannot be interrupted, has done.

    Args:
      folder: made if it is not there; holds one folder for each step.
      keep: how many of the newest stay.
      read_only: change nothing in the folder, in which another process may be writing.

    Raises:
      TypeError, ValueError: for a ``keep`` that is no integer of at least 1.

    >>> import tempfile, jax.numpy as jnp
    >>> folder = tempfile.TemporaryDirectory()
    >>> with Checkpoints(folder.name) as checkpoints:
    ...     checkpoints.save(7, {"weights": jnp.arange(3.0)})
    ...     step, state = checkpoints.newest({"weights": jnp.zeros(3)})
    >>> step, state["weights"].tolist()
    (7, [0.0, 1.0, 2.0])
    >>> folder.cleanup()
    """

    def __init__(self, folder: str | Path, keep: int = 2, *, read_only: bool = False) -> None:
        import orbax.checkpoint as ocp

        check_positive("keep", keep)
        self.folder = Path(folder).absolute()
        self._ocp = ocp
        self._read_only = read_only
        with _undisturbed():
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep,
                    enable_async_checkpointing=False,
                    cleanup_tmp_directories=not read_only,
                    read_only=read_only,
                ),
                item_names=("state", "digest"),
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        with _undisturbed():
            self._manager.close()

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder / str(step)

    def save(self, step: int, state: Any) -> None:
        """Keeps a pytree of arrays as that of ``step``, which is after all that were saved.

        Raises:
          OSError: for what cannot be written, as on a full disk; those before it stay.
        """
        args = self._ocp.args
        known = {"sha256": digest(state), "like": _shapes(state)}
        items = args.Composite(state=args.StandardSave(state), digest=args.JsonSave(known))
        try:
            with _undisturbed():
                self._manager.save(step, args=items)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise OSError(f"{self.path(step)}: cannot be written: {reason:.1000}") from error

    def newest(self, like: _T) -> tuple[int, _T] | None:
        """The newest state that is whole, with its step; None if there is none.

        Args:
          like: a pytree of the structure, shapes and dtypes of what was saved.

        Raises:
          ValueError: for a checkpoint of another structure, shapes or dtypes.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            with _undisturbed():
                state = self._restore(step, like)
            if state is not None:
                return step, state
        return None

    def _restore(self, step: int, like: _T) -> _T | None:
        args = self._ocp.args
        abstract = jax.tree.map(self._ocp.tree.to_shape_dtype_struct, like)
        try:
            known = self._manager.restore(
                step, args=args.Composite(digest=args.JsonRestore())
            ).digest
            fits = known["like"] == _shapes(like)
            if fits:
                restored = self._manager.restore(
                    step, args=args.Composite(state=args.StandardRestore(abstract))
                )
                whole = digest(restored.state) == known["sha256"]
        except Exception as error:  # whatever a damaged file makes Orbax raise
            self._set_aside(step, f"cannot be read ({type(error).__name__})")
            return None
        if not fits:
            raise ValueError(f"{self.path(step)}: is of another model or recipe than this one")
        if not whole:
            self._set_aside(step, "is damaged (wrong digest)")
            return None
        return restored.state

    def _set_aside(self, step: int, why: str) -> None:
        """Makes room for the checkpoint that the resumed run will write in its place."""
        if self._read_only:
            warnings.warn(f"{self.path(step)}: {why}", stacklevel=4)
            return
        aside = self.folder / f"damaged.{step}"
        shutil.rmtree(aside, ignore_errors=True)
        self.path(step).rename(aside)
        self._manager.reload()
        warnings.warn(f"{self.path(step)}: {why}, now {aside.name}", stacklevel=4)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Orbax at work: its log is silent, and signals wait until it is done."""
    log = logging.getLogger("absl")
    was = log.disabled
    log.disabled = True
    try:
        with _signals_waiting():
            yield
    finally:
        log.disabled = was


@contextlib.contextmanager
def _signals_waiting() -> Iterator[None]:
    """SIGINT and SIGTERM that come meanwhile are answered at the end, by the handlers of before."""
    handlers: dict[int, Any] = {}
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    try:
        if threading.current_thread() is threading.main_thread():  # which alone may set them
            for signum in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(signum)
                if callable(handler):  # else it is to end us at once, or to do nothing
                    handlers[signum] = handler
                    signal.signal(signum, note)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _shapes(state: Any) -> dict[str, str]:
    """The shape and dtype of each leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path): f"{np.shape(leaf)} {np.asarray(leaf).dtype}"
        for path, leaf in leaves
    }


def digest(state: Any) -> str:
    """SHA-256 of the shapes, dtypes and bytes of all leaves, in their order."""
    sha = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(state)):
        sha.update(f"{leaf.shape}{leaf.dtype}".encode())
        sha.update(np.ascontiguousarray(leaf).tobytes())
    return sha.hexdigest()
