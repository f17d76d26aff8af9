"""Prompts cut from a batch of texts, the networks that continue them, and the batch made of what they wrote.

A row of L + 1 tokens holds a prompt in its first slots, padded on the left, then the generated tokens. The prompt of a
running text is its first tokens; the prompt of a pair (prompt, response) is all before the first counted label, and where none
is counted the row is a prompt alone.
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

_told: weakref.WeakSet[Any] = weakref.WeakSet()  # sources of which it was said that prompts leave little room
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
            counted = batch["label"] >= 0
            first = jnp.where(counted.any(1), jnp.argmax(counted, axis=1), batch["label"].shape[1])[:, None]
            mask = (jnp.arange(self.slots)[None] <= first) & (segments > 0)
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

    Prompts of pairs have as many slots as the longest needs. Raises ValueError for data that are no text, and for
    prompts that leave nothing to generate.
    """
    if source.entry != "tokens" or not source.per_token or "segments" not in source.fields:
        raise ValueError(
            f"{source.name} is no text with a label a token and the field 'segments': see data/text/corpus.py."
        )
    length = source.images.shape[1]
    slots = prompt or int(_prompt_lengths(source).max())
    if not 0 < slots <= length:
        raise ValueError(f"prompt={prompt}: rows have {length} tokens.")
    if not prompt and source not in _told:
        _told.add(source)
        _tell_room(source, slots)
    return Prompts(slots, bool(prompt), length, source.end)


def _prompt_lengths(source: Any) -> np.ndarray:
    """The number of tokens before the first answer of every row, of all tokens where there is no answer."""
    counted = source.labels >= 0
    alone = (source.fields["segments"] > 0).sum(1)
    return np.where(counted.any(1), np.argmax(counted, axis=1) + 1, alone)


def _tell_room(source: Any, slots: int) -> None:
    """Says so where the longest prompt leaves less room than answers of the data need: all answers get the same."""
    room, counted = source.images.shape[1] + 1 - slots, source.labels >= 0
    answers = counted.sum(1)
    if answers.max(initial=0) > room:
        median = int(np.median(_prompt_lengths(source)))
        print(
            f"{source.name}/{source.split}: the longest prompt has {slots} tokens (the median {median}) and leaves "
            f"{room} of a row for every answer that is written; {100 * np.mean(answers > room):.1f}% of the data's "
            f"answers are longer, up to {answers.max()}: data.length={slots + answers.max() - 1} has room for all"
        )


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


def rows_of(source: Any, rows: Any) -> dict[str, Array]:
    """Returns rows of a source of text as a batch."""
    fields = {name: jnp.asarray(values[rows]) for name, values in source.fields.items()}
    return {source.entry: jnp.asarray(source.images[rows]), "label": jnp.asarray(source.labels[rows]), **fields}


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
