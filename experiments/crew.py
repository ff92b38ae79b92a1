"""Processes, on one machine or on many, that share the units of a run.

JAX tells them who they are, and ends all when one of them dies. Each computes every n-th unit
into the run directory, which all of them see; the first waits for the units of the others and
writes the report. A unit is computed by one process on its own devices, so its numbers do not
depend on how many there are.
"""

import dataclasses
import faulthandler
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from experiments import stopping
from experiments.rundir import UserError

__all__ = ["ALONE", "Crew", "join", "supervise"]

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_SUPERVISED = "RNN_JAX_SUPERVISED"
_HEARTBEAT = 20  # seconds in which a dead process is missed
_LONGEST = 30 * 24 * 3600  # seconds for which a process that is done waits for the others


@dataclasses.dataclass(frozen=True)
class Crew:
    """Who shares the units: process ``index`` of ``count``."""

    index: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        return self.index == 0

    def share(self, units: Sequence[str]) -> Sequence[str]:
        """What this process computes of ``units``, whatever of it is there already."""
        return units[self.index :: self.count]

    def meet(self, where: str) -> None:
        """Waits until all are there."""
        if self.count > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(where)


ALONE = Crew()


def supervise() -> None:
    """Goes on in a process of its own, and says what it means when that is ended by JAX.

    Returns in that process only; the one that called exits as it does.

    Raises:
      UserError: it was ended from outside.
    """
    if _SUPERVISED in os.environ:
        return
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]], env=os.environ | {_SUPERVISED: str(os.getpid())}
    )
    while True:
        try:
            code = child.wait()
            break
        except stopping.Terminated:
            child.send_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
    if code == -signal.SIGABRT:  # by which JAX ends those that are left
        raise UserError("another process of this run has ended; the same commands resume")
    if code < 0:
        raise UserError(f"ended by {signal.Signals(-code).name}; the same commands resume")
    sys.exit(code)


def join(environ: Mapping[str, str] = os.environ) -> Crew:
    """Meets the other processes by `jax.distributed`, before JAX is used for anything else.

    Under SLURM, Open MPI, Kubernetes and on a TPU pod slice JAX finds out who they are; elsewhere
    `VARIABLES` say the address of the first (host:port), how many there are, and which one this is.

    Raises:
      UserError: that is not known, or the others do not come.
    """
    import jax

    # It would take SIGTERM from us, to announce an end that programs may prepare for.
    jax.config.update("jax_enable_preemption_service", False)
    faulthandler.disable()  # if JAX ends us, where each thread was is of no interest
    address, *numbers = (environ.get(name) for name in VARIABLES)
    try:
        count, index = (None if number is None else int(number) for number in numbers)
        jax.distributed.initialize(
            address,
            count,
            index,
            heartbeat_timeout_seconds=_HEARTBEAT,
            shutdown_timeout_seconds=_LONGEST,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed: {error}; outside SLURM, Open MPI, Kubernetes and TPU pods set"
            f" {', '.join(VARIABLES)}"
        ) from error
    return Crew(jax.process_index(), jax.process_count())
