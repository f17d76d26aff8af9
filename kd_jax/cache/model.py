"""What a teacher said, as arrays that are stored, and the Model without parameters that reads them back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kd_jax.models.language.likeliest import likeliest
from kd_jax.models.projected import LIKELIEST, Likeliest, Projected
from kd_jax.resolve import near
from kd_jax.types import Array, Outputs, PyTree

DTYPES = ("float32", "bfloat16", "float16", "uint8")
TOP_LOG_PROBS, TOP_IDS = "top_log_probs", "top_ids"  # taps of a teacher of which the k most likely classes are kept


@dataclasses.dataclass(frozen=True)
class Store:
    """How answers are stored: k = 0 all logits, else the k largest log-probabilities, at `temperature`, and the rest.

    `dtype` is that of logits, log-probabilities and features; uint8 comes with an offset and a step a row.
    """

    k: int = 0
    dtype: str = "float32"
    temperature: float = 1.0
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"teacher.cache.dtype is {self.dtype!r}. {near(self.dtype, DTYPES)}")
        if self.k < 0 or not self.temperature > 0:
            raise ValueError(f"teacher.cache: k is 0 or more, temperature above 0; {self.k} and {self.temperature}.")

    @property
    def exact(self) -> bool:
        """Tells whether what is stored is all that the teacher said; else its k largest, or rounded."""
        return self.k == 0 and self.dtype == "float32"

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the fields of an answer."""
        packed = ["log_probs" if self.k else "logits", *(f"features:{tap}" for tap in self.features)]
        scales = [f"{name}/scale" for name in packed if self.dtype == "uint8"]
        return (*packed, *scales, *(("ids", "tail") if self.k else ()))


def pack(name: str, x: Array, dtype: str) -> dict[str, Array]:
    """Returns {name: x in `dtype`}, with uint8 also {name/scale: (low, step)}.

    The code in uint8 is round((x - low) / step) in 0..254, and 255 for -inf; each row of the last axis has its own low
    and step. Raises ValueError for uint8 where x has one value an example.
    """
    if dtype != "uint8":
        return {name: x.astype(dtype)}
    if x.ndim < 2:
        raise ValueError(f"{name}: 8 bits need an axis to share an offset and a step; use float16 or bfloat16.")
    x = x.astype(jnp.float32)
    finite = x > -jnp.inf
    low = jnp.where(finite, x, jnp.inf).min(-1, keepdims=True)
    step = jnp.maximum((jnp.where(finite, x, -jnp.inf).max(-1, keepdims=True) - low) / 254, 1e-30)
    code = jnp.where(finite, jnp.round((x - low) / step), 255).astype(jnp.uint8)
    return {name: code, f"{name}/scale": jnp.concatenate([low, step], axis=-1)}


def unpack(name: str, fields: Mapping[str, Array]) -> Array:
    """Returns the array that `pack` stored, in float32, as exact as the stored type allows."""
    x = fields[name].astype(jnp.float32)
    if f"{name}/scale" not in fields:
        return x
    low, step = jnp.split(fields[f"{name}/scale"], 2, axis=-1)
    return jnp.where(x == 255, -jnp.inf, low + x * step)


def encode(store: Store, outputs: Outputs, answer: Projected | Array | None = None) -> dict[str, Array]:
    """Returns the fields of the answers to a batch; `answer` stands for the logits, where the k largest are stored.

    `tail` is the log of the probability that the k classes leave to the others. An answer of several arrays is one row,
    `parts_of` says how they follow each other. Raises ValueError where answers are neither logits [batch, ..., classes]
    nor several float arrays [batch, ...], and for those with k or with uint8, whose steps are those of rows of classes.
    """
    logits = outputs.logits if parts_of(store, outputs) is None else _joined(outputs.logits)
    fields: dict[str, Array] = {}
    if store.k:
        top, ids, fields["tail"] = likeliest(logits if answer is None else answer, store.k, store.temperature)
        fields |= pack("log_probs", top, store.dtype)
        fields["ids"] = ids.astype(jnp.uint16 if logits.shape[-1] <= 1 << 16 else jnp.int32)
    else:
        fields |= pack("logits", logits, store.dtype)
    for tap in store.features:
        fields |= pack(f"features:{tap}", outputs.features[tap], store.dtype)
    return fields


def parts_of(store: Store, outputs: Outputs) -> PyTree | None:
    """Returns the shapes of one answer of several arrays, None of plain logits; raises the errors of `encode`."""
    logits = outputs.logits
    if hasattr(logits, "shape") and logits.ndim > 1:
        return None
    leaves = [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(logits)]
    rows = {shape[:1] for shape, _ in leaves}
    small = all(jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize <= 4 for _, dtype in leaves)
    if hasattr(logits, "shape") or len(rows) != 1 or rows == {()} or not small:
        shapes = jax.tree.map(lambda x: f"{jnp.result_type(x)}{[*jnp.shape(x)]}", logits)
        raise ValueError(
            "A teacher cache holds logits [batch, ..., classes], or several float arrays [batch, ...]; this teacher "
            f"returns {shapes}."
        )
    if store.k or store.dtype == "uint8":
        asked = f"k={store.k}" if store.k else "dtype='uint8'"
        raise ValueError(
            f"teacher.cache.{asked} is of rows of logits, and this teacher answers several arrays: take k=0 and "
            "float32, bfloat16 or float16."
        )
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x)), logits)


def _joined(logits: PyTree) -> Array:
    return jnp.concatenate([x.reshape(len(x), -1).astype(jnp.float32) for x in jax.tree.leaves(logits)], axis=1)


def _parted(row: Array, parts: PyTree) -> PyTree:
    leaves, tree = jax.tree.flatten(parts)
    ends = [sum(math.prod(x.shape) for x in leaves[: i + 1]) for i in range(len(leaves))]
    pieces = jnp.split(row, ends[:-1], axis=1)
    return tree.unflatten([piece.reshape(-1, *x.shape) for piece, x in zip(pieces, leaves, strict=True)])


def decode(store: Store, classes: int, fields: Mapping[str, Array], parts: PyTree | None = None) -> Outputs:
    """Returns the Outputs that the fields of answers hold, all float32; `parts` are those of several arrays.

    Of top-k answers the logits are temperature * log-probabilities, with the tail spread evenly over the other
    classes: exact for the k classes and for the sum of the others, at that temperature. Of tokens they are the
    feature LIKELIEST too, from which losses and scores build a few at a time.
    """
    features = {tap: unpack(f"features:{tap}", fields) for tap in store.features}
    if parts is not None:
        return Outputs(_parted(unpack("logits", fields), parts), features)
    if not store.k:
        return Outputs(unpack("logits", fields), features)
    log_p, ids, rest = stored_top(store, classes, fields)
    top = Likeliest(store.temperature * log_p, ids, store.temperature * rest, classes=classes)
    logits = top.logits()
    of_tokens = {LIKELIEST: dataclasses.replace(top, built=logits)} if rest.ndim > 1 else {}
    return Outputs(logits, {**features, TOP_LOG_PROBS: log_p, TOP_IDS: ids, **of_tokens})


def stored_top(store: Store, classes: int, fields: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    """Returns (the k largest log-probabilities, their classes, that of every other class) of top-k answers."""
    log_p, ids, tail = unpack("log_probs", fields), fields["ids"].astype(jnp.int32), fields["tail"]
    # Rounding moves the sum of the k probabilities; what they and the tail share is 1.
    log_p += jnp.log1p(-jnp.exp(tail[..., None])) - jax.nn.logsumexp(log_p, axis=-1, keepdims=True)
    return log_p, ids, tail - math.log(max(classes - ids.shape[-1], 1))


@dataclasses.dataclass(frozen=True, eq=False)
class CachedTeacher:
    """A Model without parameters whose inputs are the fields of its answers, in the order of `store.names`."""

    store: Store
    classes: int
    parts: PyTree | None = None  # the shapes of an answer of several arrays

    def init(self, key: Array, *inputs: Array) -> tuple[PyTree, PyTree]:
        return {}, {}

    def apply(
        self, params: PyTree, stats: PyTree, *inputs: Array, train: bool, key: Array, taps: tuple[str, ...] = ()
    ) -> tuple[Outputs, PyTree]:
        outputs = decode(self.store, self.classes, dict(zip(self.store.names, inputs, strict=True)), self.parts)
        for tap in taps:
            if tap != "*" and tap not in outputs.features:
                raise ValueError(
                    f"The stored answers of the teacher have no tap {tap!r}. {near(tap, outputs.features)} "
                    "What config.teacher.cache.features names is stored when a cache is built."
                )
        features = outputs.features if "*" in taps else {tap: outputs.features[tap] for tap in taps}
        return Outputs(outputs.logits, features), stats
