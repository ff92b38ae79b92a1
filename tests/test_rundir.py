"""The run directory: whose it is, and files that are whole or not there."""

import dataclasses
import json
import os
import re
import subprocess
import zipfile
from datetime import datetime

import ml_dtypes
import numpy as np
import pytest
import toy_experiment
from ml_collections import ConfigDict
from toy_experiment import RESULTS, ROOT, Payload, computed, files

from experiments import launch, rundir

home, toy, config = toy_experiment.home, toy_experiment.toy, toy_experiment.config

# ----- which directories are taken ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("hidden_size", 9, "config.hidden_size = 8, but now config.hidden_size = 9"),
        ("lengths", (10, 30), r"config.lengths = \[10, 20\], but now config.lengths = \[10, 30\]"),
        ("data", "toy.py", 'config.data = null, but now config.data = "toy.py"'),
        (
            "model",
            ConfigDict({"depth": 3}),
            "config.model.depth = 2, but now config.model.depth = 3",
        ),
        ("extra", 1, "config.extra = absent, but now config.extra = 1"),
    ],
)
def test_another_config_is_refused(home, toy, config, field, value, words):
    launch.run(toy, config, "run")
    before = files(home / "run")
    config[field] = value
    with pytest.raises(launch.UserError, match=f"--workdir=run: made with {words}"):
        launch.run(toy, config, "run")
    assert files(home / "run") == before


def test_another_experiment_is_refused(home, toy, config):
    launch.run(toy, config, "run")
    other = launch.Experiment("other", toy.validate, toy.units, toy.run_unit, toy.report)
    config["batch"] = 3  # fields that differ too would say less
    with pytest.raises(launch.UserError, match="directory of experiment toy, not of other"):
        launch.run(other, config, "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_directory_is_refused(home, toy, config):
    (home / "run").mkdir(mode=0o500)
    with pytest.raises(launch.UserError, match="--workdir=run: cannot write there"):
        launch.run(toy, config, "run")


def test_leftovers_are_removed_and_what_is_not_ours_is_kept(home, toy, config):
    launch.run(toy, config, "run")
    first = files(home / "run")
    stale = [".results.csv.partial", "units/.walk-1.npz.partial", "figures/.walks.svg.partial"]
    kept = ["notes.txt", "own.partial", "units/walk-9.npz"]
    for name in stale + kept:
        (home / "run" / name).write_text("?")
    launch.run(toy, config, "run")
    assert set(files(home / "run")) == set(first) | set(kept)


def test_start_killed_at_once_leaves_a_usable_directory(home, toy, config):
    (home / "run").mkdir()
    (home / "run/.lock").touch()
    (home / "run/.config.json.partial").write_text("{")
    launch.run(toy, config, "run")
    assert set(files(home / "run")) == RESULTS


@pytest.mark.parametrize(
    "names", [[], ["a", "a"], ["a", "A"], ["a/b"], [".."], [".a"], ["a b"], [""], ["a" * 201]]
)
def test_unit_names_must_be_unique_file_names(home, toy, config, names):
    odd = launch.Experiment("toy", toy.validate, lambda config: names, toy.run_unit, toy.report)
    with pytest.raises(launch.UserError, match="units: expected one or more unique file names"):
        launch.run(odd, config, "run")
    assert not (home / "run").exists()


# ----- what a run comes from ----------------------------------------------------------------------


def reading(toy, **sources):
    return dataclasses.replace(toy, sources=lambda config: sources)


@pytest.mark.parametrize("left", [0, 2, 3])
def test_a_run_is_not_resumed_with_other_sources(home, toy, config, left):
    first, second = reading(toy, data="12", cell="34"), reading(toy, data="12", cell="56")
    launch.run(first, config, "run")
    for unit in sorted((home / "run/units").iterdir())[left:]:
        unit.unlink()
    before = files(home / "run")
    computed(home)
    message = "^--workdir=run: cell has changed since this run began; choose another --workdir$"
    with pytest.raises(launch.UserError, match=message):
        launch.run(second, config, "run")
    assert computed(home) == []
    assert files(home / "run") == before
    launch.run(first, config, "run")
    launch.run(second, config, "run", plot_only=True)  # from what is there


@pytest.mark.parametrize("damaged", ["", '{"data": ', "[]", '"data"'])
def test_a_damaged_note_of_sources_accuses_nobody(home, toy, config, damaged):
    launch.run(reading(toy, data="12"), config, "run")
    path = home / "run/sources.json"
    path.write_text(damaged)
    with pytest.raises(launch.UserError, match=r"^run/sources.json: damaged, .*; delete it to go"):
        launch.run(reading(toy, data="34"), config, "run")
    path.unlink()
    rundir.check_sources(home / "run", {"data": "34"})
    assert not path.exists()
    launch.run(reading(toy, data="34"), config, "run")
    assert json.loads(path.read_bytes()) == {"data": "34"}


# ----- files --------------------------------------------------------------------------------------


DAMAGES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "truncated": lambda data: data[:-1],
    "text": lambda data: b"not an archive",
    # A bit of an array's contents: the archive's checksum tells.
    "flipped": lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_unit_is_computed_again(home, toy, config, capsys, damage):
    launch.run(toy, config, "run")
    first = files(home / "run")
    path = home / "run/units/walk-1.npz"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    computed(home)
    capsys.readouterr()
    launch.run(toy, config, "run")
    assert computed(home) == ["walk-1"]
    assert files(home / "run") == first
    notice = capsys.readouterr().out.splitlines()[0]
    assert notice.startswith("run/units/walk-1.npz: cannot be read")


def test_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))
        )
    rundir.write_file(tmp_path / "new" / "file", b"data")
    assert calls == ["fsync", "replace"]
    assert (tmp_path / "new" / "file").read_bytes() == b"data"


def test_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    rundir.write_file(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(launch.UserError, match=r"results.csv: No space left on device"):
        rundir.write_file(path, b"new")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_json_depends_on_the_values_alone():
    data = rundir.json_bytes({"b": {"d": None, "c": (1, 2.5)}, "a": True})
    assert data == rundir.json_bytes({"a": True, "b": {"c": [1, 2.5], "d": None}})
    assert json.loads(data) == {"a": True, "b": {"c": [1, 2.5], "d": None}}


def test_npz_depends_on_the_arrays_alone(tmp_path):
    arrays = {"file": np.arange(3), "allow_pickle": np.float32(2), "a/b": np.array(["x", "yz"])}
    data = rundir.npz_bytes(arrays)
    (tmp_path / "x.npz").write_bytes(data)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as loaded:
        assert set(loaded.files) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(loaded[name], array, strict=True)
        assert rundir.npz_bytes({name: loaded[name] for name in loaded.files}) == data
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("dtype", [object, ml_dtypes.bfloat16])
def test_npz_rejects_what_would_not_come_back(dtype):
    with pytest.raises(TypeError, match=r"array 'norm': cannot save (object|bfloat16)"):
        rundir.npz_bytes({"norm": np.zeros(2, dtype)})


# ----- the machine --------------------------------------------------------------------------------


def test_environment_keeps_the_first_start_and_appends_the_others(home, toy, config):
    launch.run(toy, config, "run")
    path = home / "run/environment.json"
    first = json.loads(path.read_bytes())
    moved = first | {"python": "3.0"}
    path.write_text(json.dumps(moved))
    launch.run(toy, config, "run")
    launch.run(toy, config, "run")
    record = json.loads(path.read_bytes())
    starts = record.pop("starts")
    assert record | {"starts": []} == moved
    assert [start["python"] for start in starts] == [first["python"]] * 2
    assert all(datetime.fromisoformat(start["started"]) for start in starts)


@pytest.mark.parametrize(
    ("damaged", "message"),
    [("{}", "damaged, has no list of starts; delete it"), ("[]", "expected an object in braces")],
)
def test_a_damaged_environment_is_one_line(home, toy, config, damaged, message):
    launch.run(toy, config, "run")
    (home / "run/environment.json").write_text(damaged)
    with pytest.raises(launch.UserError, match=f"^run/environment.json: .*{message}"):
        launch.run(toy, config, "run")


HOSTILE_JSON = {
    "deep": lambda path: path.write_bytes(b"[" * 10**6),
    "number": lambda path: path.write_bytes(b"1" * 10**5),
    "bytes": lambda path: path.write_bytes(bytes(range(256))),
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("name", ["config.json", "environment.json", "sources.json"])
def test_hostile_json_is_one_line_and_left_alone(home, toy, config, name):
    """A pipe would be waited for, for ever."""
    run = reading(toy, data="12")
    launch.run(run, config, "run")
    path = home / "run" / name
    path.unlink()
    computed(home)
    for make in HOSTILE_JSON.values():
        make(path)
        kind = path.lstat().st_mode
        with pytest.raises(
            launch.UserError, match=f"^run/{name}: (cannot be read|damaged)"
        ) as told:
            launch.run(run, config, "run")
        assert "\n" not in str(told.value)
        assert path.lstat().st_mode == kind
        path.rename(home / "aside") if path.is_dir() else path.unlink()
    assert computed(home) == []


@pytest.mark.parametrize("hostile", ["pipe", "objects"])
def test_a_hostile_unit_is_computed_again(home, toy, config, capsys, hostile):
    launch.run(toy, config, "run")
    first = files(home / "run")
    path = home / "run/units/walk-1.npz"
    path.unlink()
    if hostile == "pipe":
        os.mkfifo(path)
    else:
        np.savez(path, walk=np.array([Payload(home / "taken_over")], object))
    computed(home)
    capsys.readouterr()
    launch.run(toy, config, "run")
    assert computed(home) == ["walk-1"]
    assert files(home / "run") == first
    assert capsys.readouterr().out.startswith("run/units/walk-1.npz: cannot be read (ValueError)")
    assert not (home / "taken_over").exists()


def test_git_state(tmp_path):
    def git(*args):
        subprocess.run(["git", *args], cwd=tmp_path, check=True, capture_output=True)

    assert rundir.git_state(tmp_path) is None
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("-c", "user.name=x", "-c", "user.email=x@y", "commit", "-m", "first")
    clean = rundir.git_state(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean["revision"])
    assert clean["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert rundir.git_state(tmp_path) == clean | {"dirty": True}
    (tmp_path / "folder").mkdir()
    assert rundir.git_state(tmp_path / "folder") is None


def test_without_git(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    assert rundir.git_state(tmp_path) is None  # no repository after all
    monkeypatch.setenv("PATH", "")
    assert rundir.git_state(ROOT) is None
