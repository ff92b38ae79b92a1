"""The flags of a command and the configuration file that they name; the only place that parses any.

What is wrong with either is a `UserError` of one line, before JAX has loaded.
"""

import ast
import difflib
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags  # type: ignore[import-untyped]

from experiments.rundir import UserError

__all__ = ["FLAGS", "OWN_FLAGS", "ConfigFile", "parse_flags", "select_variant"]

FLAGS = flags.FLAGS
OWN_FLAGS = ("config", "workdir", "plot_only", "distributed")
ELEMENTS = {int: "integers", float: "numbers", str: "strings"}


def select_variant(variants: Mapping[str, Callable[[], ConfigDict]], name: str) -> ConfigDict:
    """The variant of a config called `name`, for the `get_config` of a config file."""
    if name not in variants:
        raise ValueError(f"no variant {name!r}, {_nearest(name, variants)}")
    return variants[name]()


def _nearest(name: str, names: Iterable[str]) -> str:
    """Help for a name that is none of `names`, as `rnn_jax.arguments.unknown`, which loads JAX."""
    known = sorted(names)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"known: {', '.join(known)}{hint}"


class ConfigFile(flags.ArgumentParser):
    """Reads FILE.py[:variant]. Unlike the parser of ml_collections, says in a line what is wrong.

    Its errors are UserErrors, which absl lets pass; ValueErrors it would wrap.
    """

    def parse(self, argument: str) -> ConfigDict:
        file, *variant = argument.split(":", 1)
        if not Path(file).is_file():
            siblings = [str(path) for path in Path(file).parent.glob("*.py") if path.is_file()]
            siblings = siblings or ["configs/NAME.py"]
            raise UserError(f"--config={argument}: no file {file!r}, {_nearest(file, siblings)}")
        try:
            get_config = runpy.run_path(file).get("get_config")
            config = get_config(*variant) if get_config else None
            if not isinstance(config, ConfigDict):
                raise ValueError(f"get_config() must return a ConfigDict, got {type(config)}")
        except (ValueError, OSError) as error:
            raise UserError(f"--config={argument}: {error}") from error
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"--config={argument}: {type(error).__name__}: {error}"
                f" ({where.filename}, line {where.lineno})"
            ) from error
        config.lock()
        _check_overrides(config, FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=False))
        return config

    def flag_type(self) -> str:
        return "config file"


def _check_overrides(config: ConfigDict, argv: Sequence[str]) -> None:
    """Finds the fields that the config does not have; ml_collections raises what it happens to."""
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        node: Any = config
        for part in match[1].split(".") if match else ():
            if not isinstance(node, ConfigDict) or part not in node:
                fields = node if isinstance(node, ConfigDict) else config
                raise UserError(f"{argument}: no field {part!r}, {_nearest(part, fields)}")
            node = node[part]
        if match and isinstance(node, ConfigDict):
            raise UserError(f"{argument}: a group of fields; set one of: {', '.join(node)}")
        if match and isinstance(node, tuple):
            _define_tuple_flag(f"config.{match[1]}", node)


def _define_tuple_flag(name: str, like: tuple) -> None:
    """Defines the flag of a tuple before ml_collections does, for which a,b is a single element.

    A tuple of anything but one simple type is left to it.
    """
    kinds = {type(element) for element in like}
    if len(kinds) == 1 and kinds <= ELEMENTS.keys():
        flags.DEFINE(_Elements(field=name, like=like), name, None, "A tuple.", allow_override=True)


class _Elements(flags.ArgumentParser):
    """Reads a,b,c or Python's ('a', 'b', 'c') as elements of the one type that `like` has."""

    def __init__(self, *, field: str, like: tuple) -> None:
        self.field, self.kind = field, type(like[0])
        self.example = ",".join(map(str, like))

    def parse(self, argument: str) -> tuple:
        bare = argument.strip()
        if bare[:1] + bare[-1:] in ("()", "[]"):
            bare = bare[1:-1].strip()
        try:
            if "'" in bare or '"' in bare:
                return tuple(self.kind(str(part)) for part in ast.literal_eval(f"[{bare}]"))
            parts = bare.removesuffix(",").split(",") if bare else []
            return tuple(self.kind(part.strip()) for part in parts)
        except (ValueError, SyntaxError):
            expected = f"{ELEMENTS[self.kind]} separated by commas, such as {self.example}"
            raise UserError(f"--{self.field}={argument}: expected {expected}") from None


def _define_flags(own: Sequence[str]) -> None:
    if "config" in own:
        config_flags.DEFINE_config_file(
            "config", None, "Config FILE.py[:variant]; --config.FIELD=VALUE sets a field of it."
        )
        FLAGS["config"].parser = ConfigFile()
    if "workdir" in own:
        which = ": a new one, or one to resume" if "config" in own else " to read"
        flags.DEFINE_string("workdir", None, f"Run directory{which}.")
    if "output" in own:
        flags.DEFINE_string("output", None, "FILE.html to write; else one in --workdir.")
    if "keep" in own:
        flags.DEFINE_string("keep", None, "Run directory of which the gallery keeps a small copy.")
    if "plot_only" in own:
        flags.DEFINE_boolean("plot_only", False, "Redraw from saved results, compute nothing.")
        flags.DEFINE_boolean("distributed", False, "Share the units with other processes.")
    for name in own:  # so that --help lists them
        FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS[name])


def parse_flags(argv: list[str], own: Sequence[str] = OWN_FLAGS) -> list[str]:
    """Parses `argv` into FLAGS, of which `own` are ours; what is wrong with it is a UserError."""
    try:
        _define_flags(own)
        # Unless asked for, no more than warnings: JAX has much to tell its developers.
        rest = FLAGS([argv[0], "--verbosity=-1", *argv[1:]])
    except SystemExit:
        raise SystemExit(0) from None  # --help and its like, after which absl exits with 1
    except flags.UnrecognizedFlagError as error:
        name, config = error.flagname, FLAGS["config"].value if "config" in own else None
        if "config" in own and config is None and name.startswith("config."):
            raise UserError(f"--{name}: there is no --config=FILE.py before it") from None
        names = [*own, *([f"config.{name}"] if name in (config or ()) else [])]
        raise UserError(f"unknown flag --{name}, {_nearest(name, names)}") from None
    except flags.IllegalFlagValueError as error:
        argument = str(error).removeprefix("flag ").removesuffix(f": {error.__context__}")
        flag = FLAGS[argument.partition("=")[0].lstrip("-")]
        kind = flag.parser.flag_type()
        raise UserError(f"{argument}: expected {kind}, such as {flag.default}") from None
    except flags.Error as error:
        raise UserError(str(error).split(". ")[0]) from None
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}; expected only --FLAG=VALUE")
    expected = {"config": "--config=FILE.py", "workdir": "--workdir=DIRECTORY"}
    for name in expected:
        if name in own and not FLAGS[name].value:
            needed = " ".join(text for flag, text in expected.items() if flag in own)
            raise UserError(f"--{name} is missing; expected {needed}")
    tuples = [name for name in FLAGS if isinstance(FLAGS[name].parser, _Elements)]
    values = {name: FLAGS[name].value for name in tuples}
    if "config" in own:
        FLAGS.config.update_from_flattened_dict(values, "config.")
    return rest
