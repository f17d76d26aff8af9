"""The names that a user types: all are there, and each loads no more than it needs."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import pytest

import kd_jax
from kd_jax import config


def test_every_name_is_there():
    for name in kd_jax.__all__:
        assert getattr(kd_jax, name) is not None, name
    assert set(kd_jax.__all__) <= set(dir(kd_jax))
    for name in config.__all__:
        assert getattr(config, name) is not None, name


def test_editors_are_told_the_same_names():
    """What `if TYPE_CHECKING` imports is what __getattr__ finds."""
    (block,) = [node for node in ast.parse(Path(kd_jax.__file__).read_text()).body if isinstance(node, ast.If)]
    told = {alias.name for line in block.body for alias in line.names}
    assert told | {"__version__"} == set(kd_jax.__all__)


def test_run_takes_what_its_contract_says():
    taken = [*inspect.signature(kd_jax.run).parameters]
    assert taken[:2] == ["config", "workdir"] and {"student", "teacher", "teacher_variables", "data"} <= set(taken)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'form_arrays'.*from_arrays"):
        _ = kd_jax.form_arrays
    with pytest.raises(AttributeError, match="no family 'respones'.*response"):
        _ = kd_jax.losses.respones


def test_losses_need_no_networks():
    code = """
import sys
for blocked in ("flax", "orbax", "orbax.checkpoint", "ml_collections"):
    sys.modules[blocked] = None
import jax.numpy as jnp
import kd_jax
assert kd_jax.losses.response.kd_loss(jnp.ones((2, 3)), jnp.zeros((2, 3))).shape == (2,)
for family in dir(kd_jax.losses):
    getattr(kd_jax.losses, family)
print(kd_jax.__version__)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout.strip()) == (0, kd_jax.__version__), ran.stderr


def test_taps_of_a_bare_module(capsys):
    kd_jax.print_taps(nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(2)]), jnp.zeros((1, 4)))
    assert "layers_0  float32[1, 3]" in capsys.readouterr().out
