"""Eight simulated devices, and settings under which sloppy code fails."""

import gc
import importlib.metadata
import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # no test needs an accelerator, and none may grab one

# Compiling is most of what tests do: nothing is optimised, and loops are emitted as they were before fusion emitters,
# which take three times as long (1.9 s against 0.6 s for a step of two ResNets). JAX 0.12 has no other emitters.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + (" --xla_cpu_use_fusion_emitters=false" if importlib.metadata.version("jaxlib") < "0.11" else ""),
)

# A program that several tests (or the processes they start) need is compiled once; nothing is kept between sessions.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="kd_jax_tests_"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


# Traced programs are made of many long-lived objects; visiting them after every 700 new ones takes a tenth of the time.
gc.set_threshold(20_000, 20, 50)


# Folders and files that take half a minute or more.
LONG = (
    *("roads", "test_your_teacher.py", "test_docs.py", "export", "train", "system", "sweep", "cache", "schemes"),
    *("config", "tasks", "models", "data"),
)


def pytest_collection_modifyitems(items):
    """Long files first: at the end, two processes that share files are then as good as equally busy."""
    items.sort(key=lambda item: next((i for i, name in enumerate(LONG) if name in item.path.parts), len(LONG)))


@pytest.fixture(scope="module", autouse=True)
def _fewer_objects():
    """Compiled programs leave a million objects, which the garbage collector need not visit again and again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _few_rounds():
    """Every report has latencies, and no test asks how exact: a tenth of the rounds is enough."""
    from kd_jax.system import cost

    cost.ROUNDS = 5


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """The folder of a run of killable.py's scheme that nothing disturbed."""
    import toy
    from killable import SETTINGS, SOURCES, scheme

    from kd_jax.train import loop

    directory = tmp_path_factory.mktemp("unbroken")
    loop.fit(scheme(), SOURCES, SETTINGS, directory, toy.mesh(2), "toy")
    return directory
