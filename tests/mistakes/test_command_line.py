"""Commands, config files and names in them that are wrong: one line each, with the line of the user's own file."""

import sys
from importlib import metadata

import jax
import numpy as np
import pytest
from absl import flags
from mistakes import MLP, Mistake, check, config, each, run, wrong
from scheme_checks import CONFIGS

from kd_jax import cli
from kd_jax.files import DiskFull
from kd_jax.models.lora import lora
from kd_jax.sweep import spec

GOOD = "import kd_jax\n\n\ndef get_config():\n    return kd_jax.base()\n"


def file(text, *arguments):
    """A command with a config file of this text."""

    def do(folder):
        path = folder / "mine.py"
        path.write_text(text)
        return cli.asked([f"--config={path}", *arguments])

    return do


def command(*arguments):
    return lambda folder: cli.asked([*arguments])


def sweep(text):
    def do(folder):
        (folder / "sweep.py").write_text(text)
        return spec.parse(str(folder / "sweep.py"))

    return do


def module(text, **fields):
    """A run whose config names users_module.py of this text."""

    def do(folder):
        (folder / "users_module.py").write_text(text)
        sys.modules.pop("users_module", None)
        sys.path.insert(0, str(folder))
        try:
            return run(folder, config(**fields))
        finally:
            sys.path.remove(str(folder))

    return do


def of_users_code(role, name, **kwargs):
    """A run whose `role` is made by a function of users_code.py."""
    fields = {f"{role}__model__name": f"users_code:{name}", f"{role}__model__kwargs": kwargs}
    return lambda folder: run(folder, config(**fields), **{role: None})


ROWS = [
    Mistake("no --config", "Which config? For example --config=", command("--config.seed=1"), "command"),
    Mistake(
        "a config file that is not there",
        "There is no config file 'cifar_resnt.py'. Did you mean",
        command("--config=cifar_resnt.py"),
        "command",
    ),
    Mistake(
        "a syntax error in a config file",
        "mine.py: SyntaxError: …(…mine.py, line 5)",
        file(GOOD.replace("base()", "base(")),
        "command",
    ),
    Mistake(
        "a config file without get_config",
        "mine.py defines no function get_config(arg='')",
        file("import kd_jax\n"),
        "command",
    ),
    Mistake(
        "an import in a config file that fails",
        "ModuleNotFoundError: No module named 'torchh' (…mine.py, line 1)",
        file("import torchh\n" + GOOD),
        "command",
    ),
    Mistake(
        "a name that a config file imports and kd_jax lacks",
        "ImportError: cannot import name 'Tern'",
        file("from kd_jax.types import Tern\n" + GOOD),
        "command",
    ),
    Mistake(
        "a get_config that returns nothing",
        "get_config returns a ConfigDict, such as kd_jax.base() makes, not nothing: does it end in `return config`?",
        file(GOOD.replace("return ", "")),
        "command",
    ),
    Mistake(
        "a get_config that returns a dict",
        "such as kd_jax.base() makes, not a dict.",
        file(GOOD.replace("kd_jax.base()", "{}")),
        "command",
    ),
    Mistake(
        "a KeyError in get_config",
        "get_config: KeyError: 'lr' (…mine.py, line 5)",
        file(GOOD.replace("kd_jax.base()", "{}['lr']")),
        "command",
    ),
    Mistake(
        "a field that get_config sets and a config lacks",
        "get_config: AttributeError: …trian…mine.py, line 5)",
        file(GOOD.replace("return kd_jax.base()", "kd_jax.base().trian.steps = 1")),
        "command",
    ),
    Mistake(
        "a wrong call in get_config",
        "get_config: TypeError: …(…mine.py, line 5)",
        file(GOOD.replace("kd_jax.base()", "kd_jax.base(3)")),
        "command",
    ),
    Mistake(
        "a variant of a config file that has none",
        "has no variants: its get_config takes no argument, 'tiny'",
        lambda folder: (file(GOOD)(folder), cli.asked([f"--config={folder / 'mine.py'}:tiny"])),
        "command",
    ),
    Mistake(
        "a config that is no Python file",
        "README.md is no Python file, which a config is",
        command(f"--config={CONFIGS.parent}/README.md"),
        "command",
    ),
    Mistake(
        "a field on the command line that is not there",
        "config has no field 'trian'. Did you mean 'train'",
        file(GOOD, "--config.trian.steps=1"),
        "command",
    ),
    Mistake(
        "a config at an address of a bucket",
        "--config='gs://mine/config.py': gs:// is not supported",
        command("--config=gs://mine/config.py"),
        "command",
    ),
    Mistake(
        "a syntax error in the file of a sweep",
        "sweep.py: SyntaxError: …(…sweep.py, line 1)",
        sweep("SWEEP = {'seed': (0, 1}\n"),
        "command",
    ),
    Mistake("a sweep file without SWEEP", "sweep.py defines no dict SWEEP", sweep("SEEDS = {}\n"), "command"),
    Mistake(
        "a sweep file that is not there", "--sweep: there is no file", lambda _: spec.parse("no/sweep.py"), "command"
    ),
    Mistake(
        "an argument that a model does not take",
        "takes no argument 'widht'. Did you mean 'width'",
        of_users_code("student", "sized", widht=3, depth=1),
    ),
    Mistake(
        "an argument that a model passes on in **options",
        "'users_code:net' was called with …unexpected keyword argument 'widht'",
        of_users_code("student", "net", widht=3, classes=4),
    ),
    Mistake(
        "an argument of a model that is missing",
        "missing 1 required positional argument: 'depth'",
        of_users_code("teacher", "sized", width=3),
    ),
    Mistake(
        "a model in a module that is not installed",
        "'no_such_pkg:net': no module 'no_such_pkg'. Is it installed",
        lambda folder: run(folder, config(student__model__name="no_such_pkg:net"), student=None),
    ),
    Mistake(
        "a loss in a module with a syntax error",
        "'users_module:loss' cannot be imported: SyntaxError: …users_module.py, line 1)",
        module("def loss(:\n", terms__kd__fn="users_module:loss"),
    ),
    Mistake(
        "a loss in a module whose import fails",
        "cannot be imported: ModuleNotFoundError: No module named 'torchh' (…users_module.py, line 2)",
        module("import sys\nimport torchh\n", terms__kd__fn="users_module:loss"),
    ),
    Mistake(
        "a data function that returns no Splits",
        "users_code:no_splits must return kd_jax.data.source.Splits, it returned str",
        lambda folder: run(folder, config(data__name="users_code:no_splits"), data=None),
    ),
    Mistake(
        "optimizer.trained that is no regular expression",
        "optimizer.trained='head(' is no regular expression: ",
        wrong(train__optimizer__trained="head("),
    ),
    Mistake(
        "optimizer.decay_pattern that is none",
        "optimizer.decay_pattern='*kernel' is no regular expression: ",
        wrong(teacher__train__optimizer__decay_pattern="*kernel"),
    ),
    Mistake(
        "a sharding rule that is none",
        "The sharding rules of 'student': pattern='[kernel' is no regular expression",
        wrong(mesh__student_rules=(("[kernel", "fsdp"),)),
    ),
    Mistake(
        "student.remat.modules that is none",
        "student.remat.modules='block(' is no regular expression",
        wrong(student__remat__policy="nothing_saveable", student__remat__modules="block("),
    ),
    Mistake(
        "targets of LoRA that are none",
        "lora: targets='*query' is no regular expression",
        lambda _: lora(MLP(), targets="*query").adapters(jax.random.key(0), {"head": {"kernel": np.zeros((2, 2))}}),
    ),
]


@each(ROWS)
def test_command_line(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)


def test_an_old_jax_is_one_line(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda package: {"jax": "0.4.38"}.get(package, "99.0"))
    monkeypatch.setattr(sys, "argv", ["launch.py", "--list"])
    with pytest.raises(SystemExit, match=r"kd_jax needs jax>=0\.10\.2; 0\.4\.38 is installed: pip install -U 'jax>=0"):
        cli.command()


def test_the_versions_that_are_asked_for_are_those_of_requirements():
    from kd_jax.requirements import LEAST, check

    text = (CONFIGS.parent / "requirements.txt").read_text()
    assert all(f"\n{package}>={least},<" in text for package, least in LEAST.items())
    check()


def fail(error):
    try:
        raise error
    except Exception as e:
        cli.fail(e)


def test_an_error_in_a_users_function_is_one_line_with_its_place(tmp_path, monkeypatch):
    """Of kd_jax itself it keeps its traceback, which a report about it needs."""
    from users_code import confused

    monkeypatch.delenv("KD_JAX_TRACEBACK", raising=False)
    with pytest.raises(SystemExit, match=r"TypeError: .*\(.*users_code.py, line \d+\)"):
        try:
            confused(3, 4)
        except Exception as e:
            cli.fail(e)
    with pytest.raises(TypeError, match="NoneType"):
        try:
            cli.asked(None)
        except Exception as e:
            e.__traceback__ = e.__traceback__.tb_next  # without the line of this file
            cli.fail(e)


def test_a_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("KD_JAX_TRACEBACK", "1")
    with pytest.raises(DiskFull):
        fail(DiskFull("No space left on device"))


def test_a_wrong_flag_is_one_line(tmp_path):
    values = flags.FlagValues()
    with pytest.raises(flags.UnrecognizedFlagError, match="Unknown command line flag 'wokdir'"):
        values(["launch.py", "--wokdir=x"])
