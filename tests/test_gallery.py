"""The gallery: a run kept small, made by committed code, gives the figures that are shown."""

import importlib
import io
import json
import re
import shlex
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import gallery
from experiments.gallery import ENTRIES, FIGURES, SAVED
from experiments.rundir import UserError

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("plain_jax")


def made(name):
    return json.loads((SAVED / name / "environment.json").read_text())


def facts(name):
    """The table at the end of a page."""
    page = (SAVED / f"{name}.md").read_text()
    return dict(re.findall(r"^\| ([a-z][\w ]*) \| (.*) \|$", page, re.MULTILINE))


def test_every_experiment_has_a_page():
    configs = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"suggest"}
    assert {entry.experiment for entry in ENTRIES.values()} == configs
    assert {page.stem for page in SAVED.glob("*.md")} == set(ENTRIES)
    assert {path.name for path in SAVED.iterdir() if path.is_dir()} == set(ENTRIES)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_page_says_how_its_run_was_made(name):
    """With the configuration as it is now: one that changes asks for another run."""
    gallery.load(name)
    environment = made(name)
    assert re.fullmatch("[0-9a-f]{40}", environment["git"]["revision"])
    assert environment["git"]["dirty"] is False
    assert environment["units"] == len(list((SAVED / name / "units").iterdir()))
    command = re.match("`(.*?)`", facts(name)["command"])[1]
    # Where it was written to, and that the default is the default, need not be said.
    without = lambda words: [
        word.removesuffix(":default") for word in words if not word.startswith("--workdir=")
    ]
    assert without(shlex.split(command)) == without(environment["command"])
    assert f"]({name}/environment.json)" in facts(name)["kept results"]
    assert f"](../figures/{name}.png)" in (SAVED / f"{name}.md").read_text()
    assert (FIGURES / f"{name}.png").exists()


def test_times_are_those_of_the_table():
    table = (ROOT / "experiments/README.md").read_text()
    times = dict(re.findall(r"^\| \[(\w+)\]\(.*?\) \| .* \| (.*) \|$", table, re.MULTILINE))
    shared = set(times) & set(ENTRIES)
    assert len(shared) == len(times) - 1  # train has a page of its own
    for name in shared:
        assert facts(name)["time"] == f"{times[name]} on two cores"


def test_what_is_kept_is_small():
    assert sum(path.stat().st_size for path in SAVED.rglob("*.npz")) < 12e6


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_figures_are_those_of_the_kept_runs(name):
    title = ENTRIES[name].figure
    drawn = Image.open(io.BytesIO(gallery.draw(name, [title])[title])).convert("RGB")
    shown = Image.open(FIGURES / f"{name}.png").convert("RGB")
    assert drawn.size == shown.size
    # Another version of a library may set a letter elsewhere; a moved curve changes far more.
    difference = np.abs(np.asarray(drawn, float) - np.asarray(shown, float)).mean()
    assert difference < 0.5


@pytest.fixture
def small(monkeypatch, tmp_path, finished):
    """A gallery of one small run, in another place; and that run, as if its code was committed."""
    folder, _ = finished("cliff")
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    monkeypatch.setattr(gallery, "ENTRIES", {"wall": gallery.Entry("cliff", "surface", "smoke")})
    monkeypatch.setattr(gallery, "SAVED", tmp_path / "saved")
    monkeypatch.setattr(gallery, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(gallery, "CHECKOUT", tmp_path)
    monkeypatch.setattr(gallery, "LARGE", 100)
    environment = json.loads((run / "environment.json").read_text())
    environment["git"] = {"revision": "0" * 40, "dirty": False}
    (run / "environment.json").write_text(json.dumps(environment))
    return run


@pytest.mark.slow
def test_a_run_is_kept_rounded_and_drawn(small, capsys):
    gallery.gallery(str(small))
    assert capsys.readouterr().out == "figures/wall.png\n"
    _, kept = gallery.load("wall")
    config = importlib.import_module("configs.cliff").get_config("smoke")
    assert len(kept) == len(config.lengths)
    for unit, arrays in kept.items():
        with np.load(small / "units" / f"{unit}.npz") as file:
            whole = dict(file)
        assert set(arrays) == set(whole)
        for key, values in arrays.items():
            assert values.dtype == whole[key].dtype
            if values.size > 100:
                np.testing.assert_allclose(values, whole[key], rtol=2**-12)
                assert len(np.unique(np.frexp(values)[0])) <= 2**12
            else:
                np.testing.assert_array_equal(values, whole[key])
    picture = (small.parent / "figures/wall.png").read_bytes()
    # A second time, over the first: nothing of that one is left.
    (small.parent / "saved/wall/units/stale.npz").write_bytes(b"")
    gallery.gallery(str(small))
    assert not (small.parent / "saved/wall/units/stale.npz").exists()
    gallery.gallery(None)
    assert (small.parent / "figures/wall.png").read_bytes() == picture


@pytest.mark.slow
def test_what_is_kept_outlives_whatever_fails(small, monkeypatch):
    gallery.keep(small)
    kept = small.parent / "saved/wall"
    before = {path: path.read_bytes() for path in kept.rglob("*.*")}
    with pytest.raises(UserError, match=r"--keep=.*saved/wall: is what the gallery keeps"):
        gallery.keep(kept)
    monkeypatch.setattr(gallery, "npz_bytes", lambda *_: pytest.fail("no room"))
    with pytest.raises(pytest.fail.Exception, match="no room"):
        gallery.keep(small)
    assert {path: path.read_bytes() for path in kept.rglob("*.*")} == before
    assert [path.name for path in kept.parent.iterdir()] == ["wall"]
    (kept / "config.json").unlink()
    with pytest.raises(UserError, match=r"saved/wall: no run is kept there"):
        gallery.gallery(None)


@pytest.mark.slow
def test_runs_that_nobody_could_repeat_are_not_kept(small):
    environment = json.loads((small / "environment.json").read_text())
    for git in (None, "main", {"revision": "0" * 40}, {"revision": "0" * 40, "dirty": True}):
        (small / "environment.json").write_text(json.dumps(environment | {"git": git}))
        with pytest.raises(UserError, match=r"run: made by code that is not committed"):
            gallery.keep(small)
    (small / "environment.json").write_text(json.dumps(environment))
    (small / "summary.md").rename(small / "other.md")
    with pytest.raises(UserError, match=r"run: no finished run is there"):
        gallery.keep(small)
    (small / "other.md").rename(small / "summary.md")
    (small / "environment.json").write_text(json.dumps({"git": environment["git"]}))
    with pytest.raises(UserError, match=r"run: no finished run is there"):
        gallery.keep(small)
    (small / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(UserError, match=r"^--keep=\.: no finished run is there"):
        gallery.gallery("")
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"points": 3}))
    with pytest.raises(UserError, match=r"run: a variant .* it shows cliff:smoke"):
        gallery.keep(small)
    (small / "config.json").unlink()
    with pytest.raises(UserError, match=r"run: has no config\.json"):
        gallery.keep(small)
    with pytest.raises(UserError, match=r"nowhere: no finished run is there"):
        gallery.keep(Path("nowhere"))


@pytest.mark.slow
def test_a_damaged_unit_is_said(small):
    gallery.keep(small)
    unit = next((small.parent / "saved/wall/units").iterdir())
    with zipfile.ZipFile(unit) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_LZMA}
    unit.write_bytes(unit.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"\.npz: missing or damaged"):
        gallery.load("wall")
