"""How a batch of texts is cut into prompts, who continues them, and how what was generated becomes a batch again.

A row of L + 1 tokens is a prompt in its first slots, padded on the left, then what was generated. Prompts are the first
tokens of a running text, or, of pairs (prompt, response), all that comes before the first counted label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.core.paths import roles_read
from kd_jax.models.language.generation import generate, left_padded, mixed
from kd_jax.models.language.speculative import speculate
from kd_jax.resolve import near, resolve
from kd_jax.system import precision
from kd_jax.types import Array, Parts, Role, TrainState

ENTRIES = ("tokens", "segments", "label", "labelled", "target")
SAMPLERS = ("student", "teacher", "mixed", "speculative")


@dataclasses.dataclass(frozen=True)
class Prompts:
    """`slots` of a row hold its prompt; `running` says that it is the beginning of a text and not of a pair."""

    slots: int
    running: bool
    length: int  # L, of a row of the batch
    end: int | None

    @property
    def new(self) -> int:
        """How many tokens are generated at most."""
        return self.length + 1 - self.slots

    def of(self, batch: Mapping[str, Array]) -> tuple[Array, Array]:
        """(prompts int32 [B, slots], mask of their tokens), padded on the left."""
        tokens, segments = batch["tokens"][:, : self.slots], batch["segments"][:, : self.slots]
        if self.running:
            mask = (segments == segments[:, -1:]) & (segments > 0)  # the document that the last slot belongs to
        else:
            first = jnp.argmax(batch["label"] >= 0, axis=1)[:, None]
            mask = (jnp.arange(self.slots)[None] <= first) & (segments > 0)
        return left_padded(tokens, mask)

    def entries(self, prompt: Array, mask: Array, generated: Array, real: Array) -> dict[str, Array]:
        """The entries of a batch: prompt and generated tokens, of which only the generated are counted."""
        real = real & mask.any(1, keepdims=True)  # where there was no prompt nothing counts
        tokens, counts = jnp.concatenate([prompt, generated], 1), jnp.concatenate([jnp.zeros_like(mask), real], 1)
        label = jnp.where(counts, tokens, -1)[:, 1:].astype(jnp.int32)
        segments = jnp.concatenate([mask, real], 1)[:, :-1].astype(jnp.int32)
        return with_labels({"tokens": tokens[:, :-1].astype(jnp.int32), "segments": segments, "label": label})


def with_labels(entries: Mapping[str, Array]) -> dict[str, Array]:
    """tokens, segments and label with what a prepared batch says of the labels besides."""
    return {**entries, "labelled": entries["label"] >= 0, "target": entries["label"]}


def prompts_of(source: Any, prompt: int) -> Prompts:
    """The prompts of a source: the first `prompt` tokens of a text; 0 = those of pairs, as long as the longest.

    Raises ValueError for data that are no text, or leave nothing to generate.
    """
    if source.entry != "tokens" or not source.per_token or "segments" not in source.fields:
        raise ValueError(
            f"{source.name} is no text with a label a token and the field 'segments': see data/text/corpus.py."
        )
    length = source.images.shape[1]
    slots = prompt or int(np.argmax(source.labels >= 0, axis=1).max()) + 1
    if not 0 < slots <= length:
        raise ValueError(f"prompt={prompt}: rows have {length} tokens.")
    return Prompts(slots, bool(prompt), length, source.end)


def decoding_of(role: Role, decoding: str) -> Any:
    """How a role generates: the function named `decoding`, of its Flax module."""
    module = getattr(role.model, "module", None)
    if module is None:
        raise ValueError(f"{role.model} has no Flax module that {decoding!r} could generate with.")
    return resolve(decoding)(module)


def cache_of(role: Role, decoding: str) -> Callable[[Any, Mapping[str, Array], int], Any]:
    """(params, batch, size) -> what generation begins with: of an encoder-decoder what it read of the batch's `source`
    and `source_mask`, by the function `encoded` beside `decoding`; else None, an empty cache."""
    module = getattr(role.model, "module", None)
    if not hasattr(module, "encode"):
        return lambda params, batch, size: None
    encoded = resolve(f"{decoding.rpartition('.')[0]}.encoded")
    return lambda params, batch, size: encoded(module, params, batch["source"], batch["source_mask"], size)


def rows_of(source: Any, rows: Any) -> dict[str, Array]:
    """Rows of a source of text as a batch."""
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
    """(state, batch, key) -> entries of a batch whose texts one of SAMPLERS wrote.

    "mixed": the student's and the teacher's distribution, the teacher's with share `mix`; "speculative": the teacher's
    samples, of which the student proposes `proposals` at a time.
    """
    if kind not in SAMPLERS:
        raise ValueError(f"sampler={kind!r}. {near(kind, SAMPLERS)}")
    names = {"student": ("student",), "teacher": ("teacher",)}.get(kind, ("student", "teacher"))
    if "teacher" not in parts.roles and "teacher" in names:
        raise ValueError(f"sampler={kind!r} needs a teacher, and there is none.")
    runs = [decoding_of(parts.roles[name], decoding) for name in names]
    read = cache_of(parts.roles[names[0]], decoding)
    if len(names) > 1 and hasattr(parts.roles["student"].model.module, "encode"):
        raise ValueError(f"sampler={kind!r} is of decoders; encoder-decoders sample as 'student' or 'teacher'.")
    options = dict(
        length=prompts.new,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        end=prompts.end,
    )
    if kind == "mixed":
        runs = [mixed(*runs, mix)]

    def sample(state: TrainState, batch: Mapping[str, Array], key: Array) -> dict[str, Array]:
        prompt, mask = prompts.of(batch)
        given = mask.at[:, -1].set(True)  # a row without a prompt is generated all the same, and not counted
        own = tuple(weights(state, parts.roles[name], name) for name in names)
        if kind == "speculative":
            found = speculate(*runs, own, prompt, given, key, proposals=proposals, **options)
        else:
            cache = None if kind == "mixed" else read(own[0], batch, prompts.length + 1)
            params = own if kind == "mixed" else own[0]
            found = generate(runs[0], params, prompt, given, key, cache=cache, **options)
        return prompts.entries(prompt, mask, found.tokens, found.mask)

    return sample


def weights(state: TrainState, role: Role, name: str) -> Any:
    """The parameters of a role, wherever the state keeps them; nothing is differentiated through them.

    Where the role reads those of a frozen one (adapters, their base), what its model's `merged` makes of both.
    """
    params = precision.restored(state.frozen[name][0]) if role.group is None else state.params[role.group][name]
    read = roles_read(role.inputs)
    if read:
        params = role.model.merged(params, *(precision.restored(state.frozen[base][0]) for base in read))
    return jax.lax.stop_gradient(params)
