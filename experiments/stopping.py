"""Ctrl-C and SIGTERM that end a command at whatever moment they come.

Python answers a signal between two of its own instructions. Two moments are not covered by that.
One that comes after the last check before a call that blocks waits until the call is over, and
an exception raised during a callback of the garbage collector (JAX has one) is printed and dropped.
Both happen: a thread therefore rings again until a signal has been answered.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType

__all__ = ["Terminated", "ignore", "listen"]

_PATIENCE = 0.1  # seconds
_ECHO = 1.0  # seconds in which a scheduler sends a signal to a process and to its parent


class Terminated(KeyboardInterrupt):
    """SIGTERM, treated like Ctrl-C."""


def listen() -> None:
    """Makes SIGINT raise `KeyboardInterrupt`, and SIGTERM `Terminated`, in this, the main thread.

    A SIGINT that is ignored, as in a shell's background, stays so. What comes twice within a second
    is one.
    """
    answered = threading.Event()
    arrivals, arrived = os.pipe()
    os.set_blocking(arrived, False)
    main = threading.get_ident()
    last = 0.0

    def answer(signum: int, frame: FrameType | None) -> None:
        nonlocal last
        if answered.is_set() and time.monotonic() < last + _ECHO:
            return
        answered.set()
        last = time.monotonic()
        raise Terminated if signum == signal.SIGTERM else KeyboardInterrupt

    def dropped(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            terminated = isinstance(unraisable.exc_value, Terminated)
            answered.clear()
            os.write(arrived, bytes([signal.SIGTERM if terminated else signal.SIGINT]))
        else:
            sys.__unraisablehook__(unraisable)

    def ring() -> None:
        while signums := os.read(arrivals, 1):
            time.sleep(_PATIENCE)
            while not answered.is_set():
                signal.pthread_kill(main, signums[0])
                time.sleep(_PATIENCE)

    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, answer)
    sys.unraisablehook = dropped
    signal.set_wakeup_fd(arrived, warn_on_full_buffer=False)
    threading.Thread(target=ring, daemon=True).start()


def ignore() -> None:
    """From now on neither has an effect: one that is pressed twice still ends in one line."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
