"""Digests: equal in every process that has the same data and the same code, and different where either differs."""

import os
import subprocess
import sys
import textwrap
import threading
import types
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from kd_jax.data.source import Source
from kd_jax.system import identity
from kd_jax.system.code import Code
from kd_jax.system.compiled import is_installed
from kd_jax.system.workdir import changed_things

LOSS = """
import enum
import functools
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import relu as act

TABLE, NAMES = np.arange(5.0), {"one", "two", "three", "four"}


class Kind(enum.Enum):
    A = 1


KIND = Kind.A


class Shift:
    __slots__ = ("by",)
    factor = 2.0

    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x * self.factor + self.by


shift = Shift(1.0)


@jax.custom_vjp
def clipped(x):
    return jnp.clip(x, -1, 1)


def fwd(x):
    return clipped(x), x


def bwd(x, g):
    return (g * 3.0,)


clipped.defvjp(fwd, bwd)


@functools.lru_cache
def size(n):
    return n * 2


@jax.jit
def jitted(x):
    return act(x)


def times(k):
    def scaled(x, depth=1):
        return scaled(x * k, depth - 1) if depth else x

    return scaled


twice, thrice = times(2), times(3)


def distance(student, teacher, *, scale=1.0):
    if "one" in NAMES or student.shape[0] in {"x", "y", "z"}:
        student = shift(jitted(clipped(student))) + size(3) + KIND.value
    return scale * jnp.abs(twice(student) - thrice(teacher) + TABLE[0])
"""


def parts(text, name="their_losses", root="distance"):
    module = types.ModuleType(name)
    module.__file__ = f"/somewhere/{name}.py"
    exec(compile(text, module.__file__, "exec"), module.__dict__)
    sys.modules[name] = module
    code = Code()
    code.follow(module.__dict__[root])
    return code.parts()


def changed(one, other):
    return {k for k in {*one, *other} if one.get(k) != other.get(k)}


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("* 3.0,", "* 4.0,", {"source of bwd in their_losses.py"}),
        ("n * 2", "n * 4", {"source of size in their_losses.py"}),
        ("return act(x)", "return act(x) + 0", {"source of jitted in their_losses.py"}),
        ("import relu as", "import gelu as", {"the global act of their_losses.py"}),
        ("arange(5.0)", "arange(6.0)", {"the global TABLE of their_losses.py"}),
        ('"four"}', '"five"}', {"the global NAMES of their_losses.py"}),
        ("A = 1", "A = 2", {"the global KIND of their_losses.py", "the attributes of Kind in their_losses.py"}),
        ("Shift(1.0)", "Shift(2.0)", {"the global shift of their_losses.py"}),
        ("factor = 2.0", "factor = 2.5", {"the attributes of Shift in their_losses.py"}),
        ("+ self.by", "- self.by", {"source of Shift.__call__ in their_losses.py"}),
        ("scale=1.0", "scale=2.0", {"the defaults of distance in their_losses.py"}),
        (
            "times(2), times(3)",
            "times(3), times(2)",
            {f"the global {n} of their_losses.py" for n in ("twice", "thrice")},
        ),
    ],
)
def test_each_change_is_seen_and_named(old, new, differs):
    assert LOSS.count(old) == 1
    assert differs <= changed(parts(LOSS), parts(LOSS.replace(old, new))) and parts(LOSS) == parts(LOSS)


def test_comments_blank_lines_and_the_place_in_a_file_do_not_count():
    commented = "# A comment.\n\n\n" + LOSS.replace("    return scale *", "    # why\n\n    return scale *")
    assert parts(LOSS) == parts(commented)


def test_another_process_has_the_same_digests(tmp_path):
    (tmp_path / "their_losses.py").write_text(LOSS)
    program = """
        import their_losses
        from kd_jax.system.code import Code
        code = Code()
        code.follow(their_losses.distance)
        print(code.parts())
    """
    folders = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    said = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            env={**os.environ, "PYTHONPATH": folders, "PYTHONHASHSEED": seed},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] and "bwd in their_losses.py" in said[0]


def test_what_a_package_makes_of_the_users_class_counts_by_it():
    code = Code()
    code.value("the network", nn.remat(toy.Net)(4))
    assert "source of Net.__call__ in toy.py" in code.parts()
    names = {"np": np}
    cell = "class Own:\n    def __call__(self, x):\n        return np.abs(x)\n"
    exec(compile(cell, "<ipython-input-1-ab>", "exec"), names)
    code = Code()
    code.value("the network", names["Own"]())
    assert "the attributes of Own in the notebook" in code.parts()


def test_code_of_packages_counts_by_its_name():
    code = Code()
    code.follow((nn.Dense(3), jax.nn.relu, np.sum, toy.LinenModel(nn.Dense(3)), toy.sgd))
    assert [k for k in code.parts() if not k.endswith("toy.py")] == []
    assert is_installed(jnp.__file__) and is_installed(identity.__file__) and not is_installed(__file__)


def test_what_cannot_be_compared_is_said():
    code = Code()
    lock = threading.Lock()
    code.follow(lambda x: lock.locked() * x)
    name = "test_what_cannot_be_compared_is_said.<locals>.<lambda> in test_identity.py"
    assert code.unseen == [f"the variable lock of {name} (_thread.lock)"]


def test_arrays():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    same = (x, x.copy(order="F"), jnp.asarray(x), np.repeat(x, 2, axis=1)[:, ::2])
    assert len({identity.of_array(a) for a in same}) == 1
    others = (x, x.T, x.ravel(), x.astype(np.float16), x + 1, x[0, 0], jnp.asarray(x, jnp.bfloat16), x.astype(object))
    keys = (jax.random.key(0), jax.random.key(1))
    assert len({identity.of_array(a) for a in (*others, *keys)}) == len(others) + 2
    assert identity.of_tree({"a": x, "b": 1.0}) != identity.of_tree({"a": x, "c": 1.0})
    assert identity.of_shapes({"a": x}) == identity.of_shapes({"a": x + 1}) != identity.of_shapes({"a": x.T})


def test_a_folder_counts_by_its_files_wherever_it_lies(tmp_path):
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text(text)
    one, same, other = (identity.of_files(tmp_path / name) for name in "abc")
    assert one == same != other


def test_a_streamed_set_counts_by_examples_spread_over_it():
    def streamed(shift):
        def fetch(index, view, seed):
            return {"image": np.full((2, 2, 1), index + shift, np.float32), "label": index % 3}

        return Source("s", "train", 3, ("a", "b", "c"), (0.0,), (1.0,), (2, 2, 1), None, fetch=fetch, size=1000)

    one, other = identity.of_source(streamed(0)), identity.of_source(streamed(1))
    assert changed(one, other) == {"64 examples"}


def test_files_that_lie_elsewhere_are_not_compared_and_all_else_is():
    old = {"files": {"teacher.checkpoint": "1"}, "data": {"train.image": "2"}}
    assert changed_things(old, {"data": {"train.image": "2"}}) == []
    assert changed_things(old, {**old, "files": {"teacher.checkpoint": "3"}}) == [
        "the files differ to which these point: teacher.checkpoint"
    ]
    assert changed_things(old, {"files": old["files"]}) == ["data: the arrays differ (train.image)"]
    assert changed_things(None, {}) == []
