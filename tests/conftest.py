"""Strict JAX for every test, and thousands of compilations in minutes; any device will do."""

import fcntl
import functools
import importlib
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import jax
import pytest
import scipy.linalg  # noqa: F401  # JAX's LAPACK, to be loaded before its threads are limited
import threadpoolctl

# Before anything imports Keras.
os.environ["KERAS_BACKEND"] = "jax"
# Several test processes may share one GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

# Tests choose their dtype explicitly: float32 behaviour is tested beside float64.
jax.config.update("jax_enable_x64", True)
# A silently broadcast or promoted operand is how a wrong shape or dtype goes unnoticed.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# A GPU would otherwise multiply float32 matrices in TF32, with errors of 1e-3.
jax.config.update("jax_default_matmul_precision", "highest")

# Compilation makes deadlines meaningless, and a failure has to come back on every run.
hypothesis.settings.register_profile("rnn_jax", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("rnn_jax")

# Compiling is most of what the tests do, and their programs run for milliseconds: the least
# optimised code is the quickest. XLA stops at a flag it does not know, and jaxlib 0.11 has no
# fusion emitters to switch off. Programs that tests start by themselves compile as a user's do.
_FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if jax.version.__version_info__ < (0, 11):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
USERS_FLAGS = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join([USERS_FLAGS, *_FLAGS])
jax.devices()  # which reads the flags
os.environ["XLA_FLAGS"] = USERS_FLAGS

# There are as many workers as cores: further threads of LAPACK would wait for each other.
threadpoolctl.threadpool_limits(1, user_api="blas")

_CACHE = "RNN_JAX_TESTS_CACHE"


def pytest_addoption(parser):
    parser.addoption("--part", type=_part, metavar="I/N", help="the I-th of N parts of the tests")


def _part(text):
    index, count = map(int, text.split("/"))
    if not 1 <= index <= count:
        raise ValueError(text)
    return index, count


@pytest.hookimpl(trylast=True)  # of what markers and words have left
def pytest_collection_modifyitems(config, items):
    """Keeps a stretch of the tests, in their order: what a file sets up is set up once or twice."""
    if config.getoption("part"):
        index, count = config.getoption("part")
        first, end = ((index - 1) * len(items) // count, index * len(items) // count)
        config.hook.pytest_deselected(items=items[:first] + items[end:])
        items[:] = items[first:end]


def pytest_configure(config):
    """One cache of compiled programs for all workers, of this run alone unless it is given."""
    config.own_cache = _CACHE not in os.environ
    if config.own_cache:
        os.environ[_CACHE] = tempfile.mkdtemp(prefix="rnn_jax_tests_")
    jax.config.update("jax_compilation_cache_dir", os.environ[_CACHE])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_unconfigure(config):
    if config.own_cache:  # not of the workers, which were given that of the first process
        shutil.rmtree(os.environ.pop(_CACHE))


@pytest.fixture(scope="module")
def plain_jax():
    """JAX as the command line finds it: other tests compute in float64, promote nothing."""
    changes = {
        "jax_enable_x64": False,
        "jax_numpy_rank_promotion": "allow",
        "jax_numpy_dtype_promotion": "standard",
    }
    before = {name: getattr(jax.config, name) for name in changes}
    for name, value in changes.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def finished():
    """The folder and the report of an experiment's smoke run, which one worker computes for all."""
    from experiments import launch

    @functools.cache
    def run(name):
        folder = Path(os.environ[_CACHE], "runs", name)
        folder.parent.mkdir(exist_ok=True)
        experiment = importlib.import_module(f"experiments.{name}").EXPERIMENT
        config = importlib.import_module(f"configs.{name}").get_config("smoke")
        with open(folder.with_suffix(".turn"), "w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            return folder, launch.run(experiment, config, folder)  # redrawn where it is there

    return run


@pytest.fixture(scope="module")
def browser():
    """A real browser; none comes with the project's packages."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"needs a browser: one of {', '.join(names)}")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_file(browser):
    """Opens a page, which may complain of nothing and ask for nothing; what it asked is checked at
    the end."""
    contexts, complaints = [], []

    def opened(path, address="", **options):
        options = {"viewport": {"width": 1500, "height": 900}} | options
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        url = path.resolve().as_uri()
        allowed = lambda asked: asked.split("#")[0] == url or asked.startswith(("data:", "blob:"))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: None if allowed(r.url) else complaints.append(r.url))
        page.goto(url + address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(autouse=True)
def few_memory_maps():
    """Every compiled program holds memory, in some five maps of the 65 530 that Linux gives a
    process; beyond them the compiler crashes."""
    yield
    try:
        with open("/proc/self/maps") as maps:
            count = sum(1 for _ in maps)
    except OSError:
        return
    if count > 15_000:
        jax.clear_caches()
