"""Real examples that a network was not trained on: the test split of the run that made it, or a file of the user's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.data.load import load
from kd_jax.system.workdir import CONFIG
from kd_jax.train.raw import check_raw, joined
from kd_jax.train.student import Student

MOST = 512


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """`raw` {entry: array [n, ...]} as they lie in the data; `labels` [n, ...] or None."""

    raw: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None


def of_run(folder: Path, student: Student, most: int = MOST) -> Examples:
    """Returns the first test examples of the run in whose folder an export lies.

    Raises ValueError where there is none, or its data were given as an object: then a file of examples is needed.
    """
    give = f"Give real ones: --data=FILE.npy, of {joined(student.info)} each."
    configs = [p / CONFIG for p in (folder, *folder.parents) if (p / CONFIG).is_file()]
    if not configs:
        raise ValueError(f"No run lies around {folder}, so there are no test examples to compare with. {give}")
    fields: dict[str, Any] = json.loads(configs[0].read_text())["config"]["data"]
    if "object" in fields:
        raise ValueError(f"The run's data ({fields['name']}) were given as an object in Python. {give}")
    test = load(fields).test
    batch = test.batch(min(most, len(test)))
    return _checked({k: np.asarray(v) for k, v in batch.items()}, student, np.asarray(batch["label"]))


def of_file(path: Path, student: Student, most: int = MOST) -> Examples:
    """Returns the examples of a .npy file, or of a .npz with an array for each entry and maybe "label"."""
    try:
        content = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise ValueError(f"--data={path} is no .npy or .npz file of examples: {e}.") from e
    entry = student.info["preparation"]["entry"]
    arrays = {entry: content} if isinstance(content, np.ndarray) else dict(content)
    labels = arrays.pop("label", None)
    arrays = {name: value[:most] for name, value in arrays.items()}
    return Examples(check_raw(arrays, student.info), None if labels is None else labels[:most])


def _checked(batch: Mapping[str, np.ndarray], student: Student, labels: np.ndarray) -> Examples:
    entries = (student.info["preparation"]["entry"], *student.info["fields"])
    return Examples(check_raw({name: batch[name] for name in entries}, student.info), labels)
