"""Prompts cut from a batch of texts, the networks that continue them, and the batch made of what they wrote.

A row of L + 1 tokens holds a prompt in its first slots, padded on the left, then the generated tokens. The prompt of a
running text is its first tokens; the prompt of a pair (prompt, response) is all before the first counted label.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.paths import roles_read
from kd_jax.models.language.generation import Decoding, generate, left_padded, mixed
from kd_jax.models.language.speculative import speculate
from kd_jax.resolve import near, resolve
from kd_jax.system import precision
from kd_jax.types import Array, Parts, Role, TrainState

AT_ONCE = 4096  # rows that are looked at together
_slots: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # of the sources that were looked at
ENTRIES = ("tokens", "segments", "label", "labelled", "target")
SAMPLERS = ("student", "teacher", "mixed", "speculative")


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Where the prompt of a row is."""

    slots: int  # at the beginning of a row, which hold its prompt
    running: bool  # the prompt begins a running text; False: it is that of a pair
    length: int  # L, of a row of the batch
    end: int | tuple[int, ...] | None  # the token that ends a text, or several

    @property
    def new(self) -> int:
        """Returns the largest number of tokens that are generated."""
        return self.length + 1 - self.slots

    def of(self, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """Returns the prompts, int32 [B, slots] padded on the left, and the mask of their tokens."""
        tokens, segments = batch["tokens"][:, : self.slots], batch["segments"][:, : self.slots]
        if self.running:
            mask = (segments == segments[:, -1:]) & (segments > 0)  # the document that the last slot belongs to
        else:
            there = first_text(batch["segments"])
            counted = (batch["label"] >= 0) & there
            size = jnp.where(counted.any(1), jnp.argmax(counted, axis=1) + 1, there.sum(1))[:, None]
            place = jnp.arange(self.slots)[None] + jnp.maximum(size - self.slots, 0)  # of a longer one the end
            tokens = jnp.take_along_axis(batch["tokens"], place, axis=1)
            mask = (place < size) & jnp.take_along_axis(there, place, axis=1)
        return left_padded(tokens, mask)

    def entries(self, prompt: Array, mask: Array, generated: Array, real: Array) -> dict[str, Array]:
        """Returns the entries of a batch of prompts and generated tokens; only the generated ones are counted."""
        real = real & mask.any(1, keepdims=True)  # where there was no prompt nothing counts
        tokens, counts = jnp.concatenate([prompt, generated], 1), jnp.concatenate([jnp.zeros_like(mask), real], 1)
        label = jnp.where(counts, tokens, -1)[:, 1:].astype(jnp.int32)
        segments = jnp.concatenate([mask, real], 1)[:, :-1].astype(jnp.int32)
        return with_labels({"tokens": tokens[:, :-1].astype(jnp.int32), "segments": segments, "label": label})


def with_labels(entries: Mapping[str, Array]) -> dict[str, Array]:
    """Adds to tokens, segments and label the entries that a prepared batch derives from the label."""
    return {**entries, "labelled": entries["label"] >= 0, "target": entries["label"]}


def prompts_of(source: Any, prompt: int) -> Prompts:
    """Returns where the prompts of a source are: its first `prompt` tokens, or with 0 the prompts of pairs.

    Prompts of pairs have as many slots as the longest needs, if the rest of a row has room for the data's answers; else
    as many as leave the fewest tokens of prompts and answers without room, and of longer prompts the end is read.
    Of several pairs in a row the first is continued. Raises ValueError for data that are no text, and for prompts that
    leave nothing to generate.
    """
    if source.entry != "tokens" or not source.per_token or "segments" not in source.example(0):
        raise ValueError(
            f"{source.name} is no text with a label a token and the field 'segments': see data/text/corpus.py."
        )
    length = source.image_shape[0]
    slots = prompt or _slots_of(source)
    if not 0 < slots <= length:
        raise ValueError(f"prompt={prompt}: rows have {length} tokens.")
    return Prompts(slots, bool(prompt), length, source.end)


def _slots_of(source: Any) -> int:
    """How many slots the prompts of pairs get; says once how many prompts and answers of the data have no room then."""
    if source in _slots:
        return _slots[source]
    name, length = f"{source.name}/{source.split}", source.image_shape[0]
    prompts, answers, several = _sizes(source)
    sizes = np.arange(length + 1)
    longer = [_excess(prompts, sizes), _excess(answers, length + 1 - sizes)]
    slots = int(np.argmin((longer[0] + longer[1])[1:])) + 1
    cut, short = prompts > slots, answers > length + 1 - slots
    if several.any():
        print(
            f"{name}: {several.sum()} of {len(several)} rows hold several texts, of which the first is continued; "
            "data.packing='padded' has each in a row of its own"
        )
    if cut.any() or short.any():
        print(
            f"{name}: prompts get {slots} tokens of a row and answers {length + 1 - slots}, so that the fewest are "
            f"lost: of {cut.sum()} of {len(cut)} prompts (up to {prompts.max()} tokens) the end is read, and "
            f"{short.sum()} of the data's answers (up to {answers.max()}) are longer; data.length="
            f"{prompts.max() + answers.max() - 1} has room for all"
        )
    _slots[source] = slots
    return slots


def _sizes(source: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every row the tokens of its prompt and of its answer, and whether it holds further texts, [n] each."""
    parts = []
    for first in range(0, len(source), AT_ONCE):
        batch = arrays_of(source, np.arange(first, min(first + AT_ONCE, len(source))))
        there = np.asarray(first_text(batch["segments"]))
        counted = (batch["label"] >= 0) & there
        answers = counted.sum(1)
        prompts = np.where(answers > 0, np.argmax(counted, axis=1) + 1, there.sum(1))
        parts.append((prompts, answers, (there != (batch["segments"] > 0)).any(1)))
    prompts, answers, several = (np.concatenate(x) for x in zip(*parts, strict=True))
    return prompts, answers, several


def first_text(segments: Any) -> Any:
    """Returns bool of the shape of segments [batch, length]: which tokens are of the first text of a row."""
    numbers = jnp.where(segments > 0, segments, jnp.iinfo(jnp.int32).max)
    return (segments > 0) & (segments == numbers.min(1, keepdims=True))


def _excess(lengths: np.ndarray, rooms: np.ndarray) -> np.ndarray:
    """Sum of max(lengths - room, 0), for each of the rooms."""
    most = int(max(lengths.max(initial=0), rooms.max()))
    counts = np.bincount(lengths, minlength=most + 1).astype(np.int64)
    above = np.cumsum(counts[::-1])[::-1]  # how many are at least so long
    return np.append(np.cumsum(above[::-1])[::-1], 0)[np.asarray(rooms) + 1]


def decoding_of(role: Role, decoding: str) -> Decoding:
    """Returns how a role generates: the result of the function named `decoding` for the role's Flax module."""
    module = getattr(role.model, "module", None)
    if module is None:
        raise ValueError(f"{role.model} has no Flax module that {decoding!r} could generate with.")
    return resolve(decoding)(module)


def first_cache(run: Decoding, params: Any, batch: Mapping[str, Array], size: int) -> Any:
    """Returns the cache of `size` tokens that generation begins with; None stands for an empty one.

    An encoder-decoder reads the entries `source` and `source_mask` of the batch into it.
    """
    return None if run.read is None else run.read(params, batch["source"], batch["source_mask"], size)


def arrays_of(source: Any, rows: Any) -> dict[str, np.ndarray]:
    """Returns rows of a source of text, in memory or streamed, as the arrays of a batch."""
    if source.images is None:
        examples = [source.example(int(i)) for i in rows]
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    fields = {name: values[rows] for name, values in source.fields.items()}
    return {source.entry: source.images[rows], "label": source.labels[rows], **fields}


def rows_of(source: Any, rows: Any) -> dict[str, Array]:
    """Returns rows of a source of text as a batch."""
    return {name: jnp.asarray(values) for name, values in arrays_of(source, rows).items()}


def make_sampler(
    parts: Parts,
    prompts: Prompts,
    kind: str,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    mix: float,
    proposals: int,
    decoding: str,
) -> Callable[[TrainState, Mapping[str, Array], Array], dict[str, Array]]:
    """Returns (state, batch, key) -> the entries of a batch whose texts one of SAMPLERS wrote.

    "mixed" draws from (1 - mix) p_student + mix p_teacher; "speculative" draws from the teacher, and the student
    proposes `proposals` tokens at a time. Raises ValueError for another `kind`, and for networks that cannot sample so.
    """
    if kind not in SAMPLERS:
        raise ValueError(f"sampler={kind!r}. {near(kind, SAMPLERS)}")
    names = {"student": ("student",), "teacher": ("teacher",)}.get(kind, ("student", "teacher"))
    if "teacher" not in parts.roles and "teacher" in names:
        raise ValueError(f"sampler={kind!r} needs a teacher, and there is none.")
    runs = [decoding_of(parts.roles[name], decoding) for name in names]
    if len(names) > 1 and runs[0].read is not None:
        raise ValueError(f"sampler={kind!r} is of decoders; encoder-decoders sample as 'student' or 'teacher'.")
    options = dict(
        length=prompts.new,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        end=prompts.end,
    )
    if kind == "mixed":
        runs = [mixed(runs[0], runs[1], mix)]

    def sample(state: TrainState, batch: Mapping[str, Array], key: Array) -> dict[str, Array]:
        prompt, mask = prompts.of(batch)
        readable = mask.at[:, -1].set(True)  # a row without a prompt is generated all the same, and not counted
        params = tuple(weights(state, parts.roles[name], name) for name in names)
        if kind == "speculative":
            text = speculate(runs[0], runs[1], params, prompt, readable, key, proposals=proposals, **options)
        elif kind == "mixed":
            text = generate(runs[0], params, prompt, readable, key, **options)
        else:
            cache = first_cache(runs[0], params[0], batch, prompts.length + 1)
            text = generate(runs[0], params[0], prompt, readable, key, cache=cache, **options)
        return prompts.entries(prompt, mask, text.tokens, text.mask)

    return sample


def weights(state: TrainState, role: Role, name: str) -> Any:
    """Returns the parameters of a role from wherever the state keeps them, behind a stop_gradient.

    A role whose inputs include the parameters of frozen ones (adapters of a base) has both merged by its model.
    """
    params = precision.restored(state.frozen[name][0]) if role.group is None else state.params[role.group][name]
    read = roles_read(role.inputs)
    if read:
        model: Any = role.model  # models.lora.LoRA, or another with `merged`
        params = model.merged(params, *(precision.restored(state.frozen[base][0]) for base in read))
    return jax.lax.stop_gradient(params)
