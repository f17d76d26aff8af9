"""Eight simulated devices, and settings under which sloppy code fails."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # no test needs an accelerator, and none may grab one
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiling is most of what tests do

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
