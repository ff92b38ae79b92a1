"""Ctrl-C that comes when Python would not hear it."""

import subprocess
import sys
import textwrap

import pytest

STARTS = {
    # The flag is set and no call is interrupted: as if it had come just before the call.
    "before a blocking call": """
        threading.Timer(0.2, _thread.interrupt_main, [SIGNAL]).start()
        time.sleep(60)
    """,
    "in a callback, twice": """
        threading.Timer(0.2, signal.raise_signal, [SIGNAL]).start()
        gc.callbacks.append(lambda phase, info: time.sleep(60))
        gc.collect()
        gc.callbacks.clear()
        time.sleep(60)
    """,
}


@pytest.mark.parametrize("code", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize(("number", "raised"), [(2, "KeyboardInterrupt"), (15, "Terminated")])
def test_a_signal_is_answered_whenever_it_comes(code, number, raised):
    program = f"""
        import _thread, gc, signal, threading, time
        from experiments import stopping
        SIGNAL = {number}
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stopping.listen()
        try:{textwrap.indent(code, "    ")}
        except KeyboardInterrupt as stop:
            stopping.ignore()
            gc.callbacks.clear()
            print(type(stop).__name__)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout, done.stderr) == (f"{raised}\n", "")


def test_what_is_ignored_stays_ignored():
    program = """
import signal
from experiments import stopping
signal.signal(signal.SIGINT, signal.SIG_IGN)
stopping.listen()
signal.raise_signal(signal.SIGINT)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
