"""Config files: where they are, what they offer, and the config that a command line asks for."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from kd_jax.config.terms import filled
from kd_jax.config.variants import HELP, HelpAsked, Words
from kd_jax.resolve import near, run_by_user

PACKAGE = Path(__file__).parents[1]
# configs/ of a checkout, or where the wheel has put them.
INSTALLED = next((f for f in (PACKAGE / "_configs", PACKAGE.parent / "configs") if f.is_dir()), PACKAGE / "_configs")


def folder() -> Path:
    """Returns the folder of configs that --list shows: ./configs where there is one, else the installed ones."""
    return Path("configs") if Path("configs").is_dir() else INSTALLED


def locate(name: str) -> Path:
    """Returns the file: as named, or of that name among the installed ones. Raises ValueError with the near names."""
    for path in (Path(name), Path("configs") / name, INSTALLED / name.removeprefix("configs/")):
        if path.is_file():
            return path
    raise ValueError(f"There is no config file {name!r}. {near(name, map(str, folder().glob('*.py')))}")


def execute(path: Path, what: str) -> ModuleType:
    """Returns a Python file of the user as a module. Raises ValueError, with the line, where it cannot be executed.

    `what` says in a message what such a file is.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file, which {what} is.")
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    run_by_user(str(path), lambda: loader.exec_module(module))
    return module


def load(path: Path) -> ModuleType:
    """Returns the file as a module. Raises ValueError where it cannot be executed, or has no get_config."""
    module = execute(path, "a config")
    if not callable(getattr(module, "get_config", None)):
        raise ValueError(f"{path} defines no function get_config(arg=''), which returns the config.")
    return module


def config_of(module: ModuleType, variant: str) -> ConfigDict:
    """Returns get_config(variant), or get_config() where nothing stands behind the colon.

    Raises ValueError, with the line, for an error in it, and where it returns no config.
    """
    taken = inspect.signature(module.get_config).parameters
    if variant and not taken:
        raise ValueError(f"{module.__file__} has no variants: its get_config takes no argument, {variant!r} was given.")
    arguments = [variant] if variant else []
    config = run_by_user(f"{module.__file__}: get_config", lambda: module.get_config(*arguments))
    if not isinstance(config, ConfigDict):
        kind = "nothing: does it end in `return config`?" if config is None else f"a {type(config).__name__}."
        raise ValueError(f"{module.__file__}: get_config returns a ConfigDict, such as kd_jax.base() makes, not {kind}")
    return config


def words_of(module: ModuleType) -> Words | None:
    """Returns the words that may stand behind the colon; None where the file does not use kd_jax.config.parse."""
    try:
        module.get_config(HELP)
    except HelpAsked as asked:
        return asked.words
    except Exception:  # of a file that takes no words, or none that is "help"
        pass
    return None


def asked_for(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Returns (FILE[:VARIANT] of --config, the other arguments). Raises ValueError where none is given."""
    rest, names = [], []
    for argument in arguments:
        if rest and rest[-1] in ("--config", "-config"):
            rest.pop()
            names.append(argument)
        elif match := re.match(r"--?config=(.*)", argument):
            names.append(match[1])
        else:
            rest.append(argument)
    if not names:
        raise ValueError("Which config? For example --config=configs/cifar_resnet.py:digits; --list shows all.")
    return names[-1], rest


def with_new_fields(config: ConfigDict, arguments: Sequence[str]) -> list[str]:
    """Adds the terms and kwargs that --config.terms.NAME={...} and --config...kwargs.NAME=VALUE bring to the config.

    Returns the other arguments. Raises ValueError, with near names, for a field that does not exist and cannot be new.
    """
    rest: list[str] = []
    following = iter(arguments)
    for argument in following:
        field, equals, text = argument.partition("=")
        match = re.match(r"--?config\.(.+)", field)
        if match and may_be_new(config, match[1].split(".")):
            value = text if equals else next(following, "")
            add_field(config, match[1].split("."), _literal(value))
            continue
        if match:
            check_field(config, match[1].split("."))
        rest.append(argument)
    return rest


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def _owner(config: ConfigDict, parts: Sequence[str]) -> Any:
    for part in parts:
        if not isinstance(config, ConfigDict) or part not in config:
            return None
        config = config[part]
    return config


def may_be_new(config: ConfigDict, parts: Sequence[str]) -> bool:
    """Returns whether the field is not there, and may be: a term, or an argument not spelt like one that is there."""
    owner = _owner(config, parts[:-1])
    if not isinstance(owner, ConfigDict) or parts[-1] in owner or len(parts) < 2:
        return False
    if parts[-2] == "preparation":
        return True  # core/role_preparation.py knows the names
    if parts[-2] == "kwargs":
        return not difflib.get_close_matches(parts[-1], owner.keys(), cutoff=0.8)
    return list(parts[:-1]) == ["terms"]


def add_field(config: ConfigDict, parts: Sequence[str], value: Any) -> None:
    """Adds a field that may be new; a term gets the defaults of what its value does not say."""
    owner = _owner(config, parts[:-1])
    with config.unlocked():
        owner[parts[-1]] = ConfigDict(filled(parts[-1], value)) if parts[-2] == "terms" else value


def check_field(config: Any, parts: Sequence[str]) -> None:
    """Raises ValueError with the near names where the config has no field of this path."""
    for i, word in enumerate(parts):
        if not isinstance(config, Mapping | ConfigDict):
            return  # an index into a tuple: ml_collections knows
        if word not in config:
            at, name = ".".join(["config", *parts[:i]]), ".".join(parts)
            hint = f" A new one is given as --{at}=\"{{'{word}': ...}}\"." if parts[i - 1 : i] == ["kwargs"] else ""
            raise ValueError(f"--config.{name}: {at} has no field {word!r}. {near(word, config)}{hint}")
        config = config[word]
