"""Speech or none, window by window: Silero's detector as a teacher on the host, and a small network to teach.

Both answer logits [batch, windows], one for each 256 samples (32 ms) at 8 kHz.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from kd_jax.files import path_of
from kd_jax.models.host import HostModel, host_model
from kd_jax.ranges import Count
from kd_jax.types import Array

WINDOW, CONTEXT, RATE = 256, 32, 8000  # samples at 8 kHz that Silero takes at once, and of the window before
LEAST = 1e-4  # probabilities are taken from here to 1 - this


def silero(num_classes: int, path: str = "", cached: bool = True) -> HostModel:
    """Returns Silero's voice activity detector as a frozen teacher: waves [batch, samples, 1, 1] -> logits.

    It is asked by onnxruntime on the host, with one thread; samples behind the last whole window are left out. `path`
    is the file silero_vad.onnx, "" that of the installed package silero-vad (MIT), of which nothing is imported.
    ValueError where file or onnxruntime is missing, and where recordings have not `num_classes` windows.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise ValueError("models.speech.voice_activity.silero is asked by onnxruntime: pip install onnxruntime")
    return host_model(functools.partial(_ask, str(_file(path)), num_classes), cached=cached)


def _file(path: str) -> Path:
    advice = "pip install --no-deps silero-vad brings it"
    if path:
        file = path_of(path, "config.teacher.model.kwargs.path")
        if not file.is_file():
            raise ValueError(f"silero: there is no file {file}; {advice}.")
        return file
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"silero: silero_vad.onnx is not on this machine; {advice}.")
    return Path(spec.submodule_search_locations[0]) / "data" / "silero_vad.onnx"


@functools.cache
def _session(path: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _ask(path: str, windows: int, waves: np.ndarray) -> np.ndarray:
    """Logits [batch, windows] of waves [batch, samples, 1, 1]; the detector's state goes from window to window."""
    waves = np.asarray(waves, np.float32).reshape(len(waves), -1)
    if waves.shape[1] // WINDOW != windows:
        raise ValueError(f"{waves.shape[1]} samples are {waves.shape[1] // WINDOW} windows, the labels have {windows}")
    session, state = _session(path), np.zeros((2, len(waves), 128), np.float32)
    before, answers = np.zeros((len(waves), CONTEXT), np.float32), []
    for start in range(0, windows * WINDOW, WINDOW):
        window = waves[:, start : start + WINDOW]
        inputs = {"input": np.concatenate([before, window], 1), "state": state, "sr": np.array(RATE)}
        probability, state = session.run(None, inputs)
        before = window[:, -CONTEXT:]
        answers.append(np.clip(probability[:, 0], LEAST, 1 - LEAST))
    p = np.stack(answers, 1)
    return np.log(p / (1 - p)).astype(np.float32)


class Windows(nn.Module):
    """Mel [batch, windows, bands] -> logits [batch, windows]; taps: conv0, conv1, ..., head."""

    width: int
    depth: int
    kernel: int
    dtype: Any

    @nn.compact
    def __call__(self, mel: Array) -> Array:
        dtype = jnp.dtype(self.dtype)
        x = mel.astype(dtype)
        for i in range(self.depth):
            x = nn.relu(nn.Conv(self.width, (self.kernel,), dtype=dtype, name=f"conv{i}")(x))
        return nn.Dense(1, dtype=dtype, name="head")(x)[..., 0]


def windows(width: Count[int] = 12, depth: Count[int] = 2, kernel: Count[int] = 5, dtype: Any = "float32") -> Windows:
    """Returns a network of `depth` convolutions over the windows, each of which sees `kernel` of them."""
    return Windows(width, depth, kernel, dtype)
