"""The losses need neither Flax nor Orbax nor ml_collections, so that other libraries can take them alone."""

import subprocess
import sys

CODE = """
import importlib, pkgutil, sys
for name in ("flax", "orbax", "ml_collections"):
    sys.modules[name] = None  # an import of it raises ImportError
import kd_jax.losses
for module in pkgutil.iter_modules(kd_jax.losses.__path__):
    importlib.import_module(f"kd_jax.losses.{module.name}")
"""


def test_losses_import_without_flax_orbax_and_ml_collections():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
