"""Files that want to hang, fill or take over the process that reads them.

All are read by one process of its own with a limit on its memory: each has to be answered with one
line that names it, within seconds, and no code in it is run.
"""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from toy_experiment import Payload

READERS = """
import json, resource, signal, sys, time
import jax, numpy, pandas, torch, safetensors.numpy
from rnn_jax import interop, tasks
from rnn_jax.interop import torch_weights

READERS = {
    "text": lambda path: tasks.from_file(path, 4),
    "language": tasks.load_text,
    "table": lambda path: tasks.from_file(path, 4),
    "series": tasks.series_from_csv,
    "texts": tasks.text_from_file,
    "features": tasks.speech,
    "weights": interop.load,
    "metadata": interop.load_metadata,
    "torch": torch_weights.read,
}
limit, cases = int(sys.argv[1]), json.loads(sys.stdin.read())
used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + limit, used + limit))
for reader, path in cases:
    signal.alarm(30)  # which ends a process that waits
    begun = time.monotonic()
    try:
        READERS[reader](path)
        said = ["nothing", ""]
    except Exception as error:
        said = [type(error).__name__, str(error)]
    print(json.dumps([reader, path, *said, time.monotonic() - begun]), flush=True)
"""

MEMORY = 2**30
TEXTS = ("text", "language", "table", "series", "texts")
FEATURES = ("features", "lengths", "transcripts")


def npz(**members):
    """An archive of the members as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def npy(header, data=b""):
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def numbers(shape, dtype="<f4"):
    return npy(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}")


def pickled(folder):
    """An .npy of objects, as NumPy itself writes it."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(folder / "taken_over")], object), allow_pickle=True)
    return buffer.getvalue()


def bomb(path):
    """A gigabyte of zeros in a megabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("features.npy", "w", force_zip64=True) as member:
            member.write(numbers((2**8, 2**10, 2**10)))
            for _ in range(2**4):
                member.write(bytes(2**26))
        for name in FEATURES[1:]:
            archive.writestr(f"{name}.npy", numbers((2**10,), "<i4"))


def tensors(header):
    """A safetensors file with this header."""
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(data).to_bytes(8, "little") + data + bytes(16)


def tensor(shape, begin, end, dtype="F32"):
    return tensors({"w": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}})


def contents(folder):
    """(reader, ending, bytes) of every bad file."""
    for reader in TEXTS:
        ending = {"text": "txt", "language": "txt"}.get(reader, "csv")
        yield from (
            (reader, ending, data)
            for data in (b"", b"\0" * 5000, b"\xff\xfe\xfd", b"a\n1\n\xf0\x28", b"\xc0\xaf" * 9)
        )
        yield reader, ending, bytes(range(1, 256)) * 50
    for reader in ("table", "series", "texts"):
        yield reader, "csv", b"1," * 20_000 + b"1\n"
        yield reader, "csv", b'"' + b"1\n" * 9
    # The marks of the other tables are beyond their first lines.
    yield "table", "csv", b"a\n" + b"1," * 5_000_000 + b"1\n"
    yield "texts", "csv", b"text,label\n" + b"x" * 10**6 + b",spam\n"
    for line in (
        b"[" * 10**6,
        b'{"text":' * 10**5,
        b"1" * 5000,
        b'{"text": "a", "text',
        b"{}",
        b'{"text": {"a": 1}, "label": []}',
        b'"\xed\xa0\x80"',
        b'{"text": "\\ud800", "label": "\\udfff"}',
    ):
        yield "texts", "jsonl", line + b"\n"

    others = {name: numbers((1,), "<i4") for name in FEATURES[1:]}
    for data in (
        b"",
        b"text",
        npz()[:-1],
        npz(),
        npz(features=b"", **others),
        npz(features=b"text", **others),
        npz(features=numbers((10**12,)), **others),
        npz(features=numbers((2**62, 2**62)), **others),
        npz(features=numbers((-1,)), **others),
        npz(features=numbers("(" * 5000), **others),
        npz(features=numbers((1,), "O"), **others),
        npz(features=numbers((4, 4, 4))[:-9], **others),
        npz(features=pickled(folder), **others),
        npz(features=pickle.dumps(Payload(folder / "taken_over")), **others),
        npz(features=numbers((4, 4, 4)), **others).replace(b"features", b"FEATURES"),
        npz(features=bytes(5000), **others).replace(b"\x08\x00", b"\x63\x00"),  # no such codec
        npz(features=bytes(5000), **others).replace(b"\x14\x00\x00\x00", b"\x14\x00\x01\x00"),
    ):
        yield "features", "npz", data

    for reader in ("weights", "metadata"):
        for data in (
            b"",
            b"1234567",
            (10**18).to_bytes(8, "little") + b"{}",
            (2**64 - 1).to_bytes(8, "little"),
            tensors(b"[" * 10**6),
            tensors(b"\xff" * 20),
            tensors(b"\0" * 20),
            tensors({"w": 3}),
            tensor([4], 0, 10**15),
            tensor([4], 8, 0),
            tensor([5], 0, 16),
            tensor([2**40, 2**40], 0, 16),
            tensor([-4], 0, 16),
            tensor([4], 0, 16, "F128"),
            tensor([2], 8, 16),
            pickle.dumps(Payload(folder / "taken_over")),
        ):
            yield reader, "safetensors", data

    for data in (
        b"",
        b"text",
        pickle.dumps(Payload(folder / "taken_over")),
        pickle.dumps({"weight": Payload(folder / "taken_over")}),
        pickle.dumps([1] * 10),
        npz(),
        npz(**{"archive/data.pkl": pickle.dumps(Payload(folder / "taken_over"))}),
    ):
        yield "torch", "pt", data


def odd_paths(folder):
    """(reader, path) of what is no file."""
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    paths = [folder / name for name in ("folder", "loop", "pipe", "absent", "a" * 300)]
    paths += [folder / "absent" / "file", Path("/dev/zero")]
    for reader in (*TEXTS, "features", "weights", "metadata", "torch"):
        for path in paths:
            yield reader, str(path)


def answers(cases):
    done = subprocess.run(
        [sys.executable, "-c", READERS, str(MEMORY)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=500,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(cases), (cases[len(told)], done.returncode, done.stderr[-1000:])
    return told


def check(told):
    for reader, path, kind, message, seconds in told:
        case = reader, path, kind, message
        assert kind == "ValueError", case
        assert "\n" not in message, case
        assert message.startswith(f"{path}: "), case
        assert len(message) < 1000, case
        assert seconds < 20, (*case, seconds)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory and /proc are Linux's")
def test_one_line_no_wait_and_nothing_is_run(tmp_path):
    cases = list(odd_paths(tmp_path))
    for number, (reader, ending, data) in enumerate(contents(tmp_path)):
        path = tmp_path / f"bad-{number}.{ending}"
        path.write_bytes(data)
        cases.append((reader, str(path)))
    check(answers(cases))
    assert not (tmp_path / "taken_over").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory and /proc are Linux's")
def test_files_larger_than_the_memory(tmp_path):
    cases = []
    for reader, ending in [("text", "txt"), ("table", "csv"), ("texts", "jsonl")]:
        for name, start in [("holes", b""), ("text", b"a" * 2**21)]:
            path = tmp_path / f"{name}.{ending}"
            path.write_bytes(start)
            os.truncate(path, 2**33)  # the rest takes no room on the disk, and is NUL
            cases.append((reader, str(path)))
    line = tmp_path / "line.csv"
    line.write_bytes(b"1," * (50 * 2**20))
    cases += [(reader, str(line)) for reader in ("table", "series", "texts")]
    bomb(tmp_path / "bomb.npz")
    cases.append(("features", str(tmp_path / "bomb.npz")))
    check(answers(cases))
