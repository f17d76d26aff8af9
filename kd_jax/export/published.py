"""The end of a run on published language models: the student as a folder that `transformers` loads, adapters as PEFT's.

A run names it in config.export; what is written is the network that kd_jax.load(DIR) returns, the best step by
validation where there is one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from kd_jax.files import digest, digests, path_of, read_json, write_json
from kd_jax.models.hub import find_model, name_for_others
from kd_jax.models.language import peft, published
from kd_jax.models.language.decoder import Decoder
from kd_jax.models.language.pretrained_decoders import read_family
from kd_jax.models.language.text_models import holds_more
from kd_jax.models.lora import LoraModel
from kd_jax.models.remat import Remat
from kd_jax.models.safetensors_io import SHARD
from kd_jax.train.student import Student, load

HF, PEFT, BASE = "hf", "peft", "base"  # folders in <workdir>/student
RECORD = "published.json"  # beside them: of which export they were written, and their checksums


def check(config: ConfigDict, rows: str = "tokens", dtype: str = "float32", max_shard_size: int = SHARD) -> None:
    """Raises ValueError for words that `write` does not know, and for a student that was made of no folder."""
    published.check_words(rows, dtype)
    if max_shard_size < 1:
        raise ValueError(f"config.export.kwargs.max_shard_size={max_shard_size}: expected bytes of a file, at least 1.")
    if not (config.student.path or config.teacher.path):
        raise ValueError("config.export writes what became of student.path, or of teacher.path; both are ''.")


def write(
    directory: Path, config: ConfigDict, rows: str = "tokens", dtype: str = "float32", max_shard_size: int = SHARD
) -> None:
    """Writes <directory>/student/hf; of adapters also student/peft, and student/base where no folder has their base.

    `rows`, `dtype` and `max_shard_size` are as in models.language.published.save; the chat template is the one of the
    run. What is there already, and as it was written, stays. ValueError for a student that is no decoder.
    """
    student, place = load(directory), directory / "student"
    asked = {"of": dict(student.info["sha256"]), "rows": rows, "dtype": dtype, "max_shard_size": max_shard_size}
    template = config.data.template and str(path_of(config.data.template, "data.template"))
    asked["template"] = template and digest(Path(template))
    done = read_json(place / RECORD) or {}
    if {k: done.get(k) for k in asked} == asked and _are_whole(place, done["files"]):
        return
    words = {"rows": rows, "dtype": dtype, "max_shard_size": max_shard_size}
    made = _folders(student, place, config, {"tokenizer": config.data.tokenizer, "template": template, **words})
    for name, fill in made.items():
        _whole(place / name, fill)
    files = {name: digests(place / name, "") for name in made}
    write_json(place / RECORD, {**asked, "files": files})
    print(f"For transformers: {', '.join(str(place / name) for name in made)}")


def _folders(
    student: Student, place: Path, config: ConfigDict, options: Mapping[str, Any]
) -> dict[str, Callable[[Path], None]]:
    """What is written of a student: {name of a folder: what fills it}; `options` are those of published.save."""
    source = config.student.path or config.teacher.path
    model = student.model.model if isinstance(student.model, Remat) else student.model
    module = getattr(model, "module", None)
    if not isinstance(module, Decoder):
        raise ValueError(f"config.export: {model!r} is no decoder of kd_jax.")

    def save(params: Any) -> Callable[[Path], None]:
        return lambda folder: published.save(folder, source, module, params, **options)

    if not isinstance(model, LoraModel):
        return {HF: save(student.params)}
    base = _base(student)
    there = config.student.path and not holds_more(find_model(source))  # a folder of this network alone
    where = name_for_others(source) if there else str((place / BASE).absolute())
    adapters = {PEFT: lambda folder: peft.save(folder, where, read_family(source), model, student.params)}
    return {HF: save(model.merged(student.params, base)), **adapters, **({} if there else {BASE: save(base)})}


write.check = check  # type: ignore[attr-defined]: what train.run asks before the first step


def _are_whole(place: Path, files: Mapping[str, Any]) -> bool:
    """Whether the folders in `place` are there with these checksums of their files."""
    return all((place / name).is_dir() and digests(place / name, "") == sums for name, sums in files.items())


def _base(student: Student) -> Any:
    """The parameters that adapters belong to: their network's last input."""
    return student.fixed[max(student.fixed, key=int)]


def _whole(folder: Path, fill: Callable[[Path], None]) -> None:
    """Makes a folder of what `fill` writes, whole or not at all, in the place of one of its name."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fill(scratch / folder.name)
        shutil.rmtree(folder, ignore_errors=True)
        (scratch / folder.name).replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
