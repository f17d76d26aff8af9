"""A network that a run exported, anywhere: found, built, prepared for and asked. Nothing is unpickled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.compress.packed import read_arrays, read_head, unrounded
from kd_jax.core.evaluate import answer_at
from kd_jax.core.paths import lookup
from kd_jax.files import path_of
from kd_jax.models.adapters import as_model
from kd_jax.models.described import rebuild
from kd_jax.resolve import near
from kd_jax.system.checkpoint import BASE, load_tree, read_tree, stored_shapes
from kd_jax.system.exports import read_info
from kd_jax.train import measure_loaded
from kd_jax.train.about import SCHEMA, TOKENIZER
from kd_jax.train.finish import exported
from kd_jax.train.found import find_export
from kd_jax.train.raw import check_raw, joined, parted
from kd_jax.train.writing import continued, decoder_of
from kd_jax.types import Array, Model, PyTree

MOST = 256  # examples that are asked at once
TOKENS = {"ref": "kd_jax.tasks.tokens:next_tokens"}


@dataclasses.dataclass(frozen=True, eq=False)
class Student:
    """A loaded network: `predict(raw)` and `logits(raw)` take examples as they lie in the data.

    `raw` is an array [n, ...], one example, a list, an iterator of examples, a list of texts, or {entry: array} where
    the network reads several entries. `model`, `params` and `stats` are the plain parts (kd_jax.types.Model), `fixed`
    {position: value} the inputs that are no examples (numbers of bits, the base of adapters), `info` is model.json.
    """

    info: Mapping[str, Any]
    model: Model
    params: PyTree
    stats: PyTree
    fixed: Mapping[str, PyTree]
    entry: str  # what is answered: "student", or an exit or a branch of it
    tokenizer: str = ""

    @property
    def classes(self) -> list[str]:
        """Returns the names of the classes or outputs."""
        return list(self.info["classes"])

    def predict(self, raw: Any) -> Any:
        """Returns what the task predicts (info["task"]["predicts"]) of every example, as NumPy; one for a single one.

        Raises ValueError for examples of another shape or type, and for a task that does not say what it predicts.
        """
        if _are_texts(raw) and self.info["task"]["predict"] == TOKENS and decoder_of(self.model) is not None:
            return self.write(raw)
        predict = predictor(self.info)
        if predict is None:
            raise ValueError(
                f"The task {self.info['task']['name']!r} does not say what its networks predict: take .logits(raw), or "
                "give the task predict=, a function (logits) -> answers that can be imported."
            )
        answer = self.logits(raw)
        single = self._is_single(raw)
        predicted = predict(jax.tree.map(lambda x: x[None], answer) if single else answer)
        return jax.tree.map(lambda x: np.asarray(x)[0] if single else np.asarray(x), predicted)

    def write(self, texts: str | Sequence[str], length: int = 64) -> str | list[str]:
        """Returns how a decoder goes on after each text, greedily, in at most `length` tokens, up to its end token.

        Raises ValueError for a network that is no decoder of this package, or was exported without a tokenizer.
        """
        if not self.tokenizer:
            raise ValueError("This network was exported without a tokenizer, so it reads and writes no texts.")
        written = continued(self.model, self.params, self.fixed, self.info, self.tokenizer, texts, length)
        return written[0] if isinstance(texts, str) else written

    def logits(self, raw: Any) -> Any:
        """Returns the main output for every example, as NumPy [n, ...]; without the first axis for a single one."""
        parts = [self._answers(batch) for batch in self._batches(raw)]
        if not parts:
            raise ValueError("There are no examples to answer to.")
        answers = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        return jax.tree.map(lambda x: x[0], answers) if self._is_single(raw) else answers

    def measure(
        self,
        names: str | Sequence[str],
        test: tuple[Any, Any],
        *,
        train: tuple[Any, Any] | None = None,
        validation: tuple[Any, Any] | None = None,
        others: Mapping[str, Student] | None = None,
        **options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Returns {role: {measure: {metric: value}}} of the measures `names` (docs/measure.md) on (x, y) of classes.

        `others` are loaded networks beside this "student", such as {"teacher": ..., "baseline": ...}; `options` those
        of the measures: attacks={"eps": (4.0,)}. Raises ValueError for a measure that does not fit.
        """
        pairs = {"train": train, "validation": validation, "test": test}

        def prepare(batch: Mapping[str, Any], key: Array, train: bool) -> Mapping[str, Any]:
            return prepared(batch, self.info)

        return measure_loaded.measure(names, {**(others or {}), "student": self}, pairs, prepare, options)

    def prepare(self, raw: Any) -> tuple[PyTree, ...]:
        """Returns what `model.apply(params, stats, *inputs, train=False, key=...)` takes as inputs for all of `raw`."""
        batches = list(self._batches(raw))
        whole = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        return inputs_of(whole, self.info, self.fixed)

    def _is_single(self, raw: Any) -> bool:
        return isinstance(raw, str) or (hasattr(raw, "ndim") and raw.ndim == len(self.info["input"]["shape"]))

    def _batches(self, raw: Any) -> Iterator[dict[str, np.ndarray]]:
        """The raw examples in batches of at most MOST, checked."""
        for part in parted(raw, self.info, MOST):
            yield check_raw(self._from_texts(part), self.info)

    def _from_texts(self, part: Any) -> Any:
        if not (isinstance(part, list) and part and isinstance(part[0], str)):
            return part
        text = self.info["preparation"]["text"]
        if not self.tokenizer or text is None or "why" in text:
            raise ValueError(f"This network takes no texts: it reads {joined(self.info)}.")
        return dict(rebuild(text)(part, self.tokenizer))

    def _answers(self, batch: Mapping[str, np.ndarray]) -> PyTree:
        count = len(next(iter(batch.values())))
        bucket = 1 << (count - 1).bit_length()  # powers of two: few programs, whatever the numbers of examples
        padded = {name: np.concatenate([x, np.repeat(x[:1], bucket - count, 0)]) for name, x in batch.items()}
        answers = self._forward(self.params, self.stats, self.fixed, padded)
        return jax.tree.map(lambda x: np.asarray(x)[:count], answers)

    @functools.cached_property
    def _forward(self) -> Any:
        def forward(params: PyTree, stats: PyTree, fixed: Mapping[str, PyTree], batch: Mapping[str, Array]) -> PyTree:
            return answer_at(self.entry, self.model, params, stats, inputs_of(batch, self.info, fixed))

        return jax.jit(forward)


def _are_texts(raw: Any) -> bool:
    return isinstance(raw, str) or (isinstance(raw, (list, tuple)) and bool(raw) and isinstance(raw[0], str))


def predictor(info: Mapping[str, Any]) -> Callable[[Any], Any] | None:
    """Returns what maps the main output to what the task predicts, None where the export does not say it."""
    described = info["task"]["predict"]
    return None if described is None or "why" in described else rebuild(described)


def inputs_of(batch: Mapping[str, Any], info: Mapping[str, Any], fixed: Mapping[str, PyTree]) -> tuple[PyTree, ...]:
    """Returns the inputs of a network on a raw batch; `fixed` {position: value} are those that are no examples."""
    context, paths = {"batch": prepared(batch, info)}, enumerate(info["inputs"])
    return tuple(fixed[str(i)] if str(i) in fixed else lookup(context, path) for i, path in paths)


def prepared(batch: Mapping[str, Any], info: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the batch as the network saw it in evaluation, from raw entries without labels."""
    preparation = info["preparation"]
    count, label = len(next(iter(batch.values()))), info["label"]
    rows = jnp.arange(count, dtype=jnp.int32)
    none = -1 if label["dtype"].startswith("int") else jnp.nan
    labels = jnp.full((count, *label["shape"]), none, label["dtype"])
    whole = {"label": labels, "labelled": jnp.zeros(count, bool), "index": rows, "view": jnp.zeros_like(rows), **batch}
    described = preparation["prepare"]
    if described is not None and "why" in described:
        raise ValueError(f"The inputs of this network cannot be prepared here: {described['why']}.")
    if described is None or preparation["entry"] not in batch:
        return whole
    return rebuild(described)(whole, jax.random.key(0), False)


def load(path: str | Path, model: Any = None, which: str = "", entry: str = "") -> Student:
    """Reads a network that a run exported; `path` is a workdir, the folder of a training in it, or of an export.

    It may be the file of a packed network too (kd_jax/compress/packed.py), which a chain of compression writes.
    Of a workdir it is the student. `which` is "best", the step that validation chose (the default where there is one),
    or "last". `model` is the module of a network that only its author's code can build. `entry` is one of
    info["entries"], such as an exit or a peer of it; default: the first.
    Raises ValueError in one line for what is missing, unfinished, damaged, or cannot be built or imported here.
    """
    if path_of(path, "load(path)").is_file():
        return _load_packed(path_of(path, "load(path)"), model, which, entry)
    folder = find_export(path_of(path, "load(path)"), which)
    info = read_info(folder)
    entry = _check(folder, info, which, entry)
    network = _built(folder, info, model)
    fixed = dict(stored_shapes(folder).get("given", {}))
    base = read_tree(folder / BASE) if (folder / BASE).is_dir() else {}
    tokenizer = (folder / TOKENIZER).read_text(encoding="utf-8") if (folder / TOKENIZER).is_file() else ""
    params, stats = _shapes(network, info, {**fixed, **base})
    tree = load_tree(folder, exported(params, stats, fixed))
    params, stats, extra = jax.device_put((tree["params"], tree.get("stats", stats), tree.get("given", {})))
    return Student(info, network, params, stats, {**extra, **jax.device_put(base)}, entry, tokenizer)


def _load_packed(path: Path, model: Any, which: str, entry: str) -> Student:
    head = read_head(path)
    info = head["model"]
    entry = _check(path, info, which, entry)
    network = unrounded(_built(path, info, model))
    params, stats = jax.device_put(read_arrays(path, head, *_shapes(network, info, {})))
    return Student(info, network, params, stats, {}, entry, head["texts"].get(TOKENIZER, ""))


def _check(place: Path, info: Mapping[str, Any], which: str, entry: str) -> str:
    """Returns the entry that is asked for; ValueError where this export is of another version or step, or lacks it."""
    if info.get("schema") != SCHEMA:
        raise ValueError(f"{place} is of schema {info.get('schema')!r}, and this version of kd_jax reads {SCHEMA}.")
    if which and which != info["which"]:
        raise ValueError(f"{place} is of the {info['which']!r} step, not of {which!r}.")
    entry = entry or info["entry"]
    if entry not in info["entries"]:
        raise ValueError(f"{place} answers at no {entry!r}. {near(entry, info['entries'])}")
    return entry


def _shapes(network: Model, info: Mapping[str, Any], fixed: Mapping[str, PyTree]) -> tuple[PyTree, PyTree]:
    """The shapes of (params, stats) of a network on its raw examples."""
    raw = {info["preparation"]["entry"]: info["input"], **info["fields"]}
    one = {name: jax.ShapeDtypeStruct((1, *spec["shape"]), spec["dtype"]) for name, spec in raw.items()}
    inputs = jax.eval_shape(lambda one, fixed: inputs_of(one, info, fixed), one, fixed)
    return jax.eval_shape(network.init, jax.random.key(0), *inputs)


def _built(folder: Path, info: Mapping[str, Any], model: Any) -> Model:
    if model is not None:
        return as_model(model)
    architecture, give = info["architecture"], f"Give it: kd_jax.load({str(folder)!r}, model=...)."
    if architecture["name"] is None:
        raise ValueError(
            f"{folder} is a {architecture['class']} that only its author's code builds: {architecture['why']}. {give}"
        )
    try:
        return as_model(rebuild(architecture))
    except (ValueError, TypeError) as e:
        raise ValueError(f"{folder}: its network {architecture['name']} cannot be built here: {e} {give}") from e
