"""The published methods of distilling language models, as terms and a scheme: configs/language.py and configs/llm.py.

METHODS are the words; the docstring of configs/language.py says what each of them is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kd_jax.config.terms import part, supervised, term
from kd_jax.losses.needs import is_by_token
from kd_jax.losses.two_passes import passes_of
from kd_jax.resolve import resolve

WORD = {
    "word": ("kd_loss", {"temperature": 1.0}),
    "reverse_kl": ("reverse_kl_loss", {}),
    "jsd": ("jsd_loss", {"beta": 0.5}),
    "skew_kl": ("skew_kl_loss", {"alpha": 0.1}),
    "skew_reverse_kl": ("skew_reverse_kl_loss", {"alpha": 0.1}),
    "akl": ("adaptive_kl_loss", {"mu": 0.5}),
    "tv": ("total_variation_loss", {}),
}
WRITTEN = ("sequence", "interpolated", "teacher_samples", "on_policy", "speculative", "minillm", "distillm")
METHODS = (*WORD, *WRITTEN)
SHARE = 0.5  # of the batches are written anew


def kd(method: str, weight: float = 1.0) -> dict[str, Any]:
    """Returns a divergence between student and teacher at every counted token."""
    fn, kwargs = WORD[method]
    paths = ("student.logits",), ("teacher.logits",)
    return term(f"losses.response.{fn}", *paths, weight=weight, kwargs=kwargs, where="batch.labelled")


def on_data(weight: float) -> dict[str, Any]:
    """Returns the cross-entropy on the data where the batch itself is generated."""
    paths = ("on_data.logits",), ("batch.data_target",)
    return term("losses.task.cross_entropy_loss", *paths, weight=weight, where="batch.data_labelled")


def set_method(config: ConfigDict, method: str, prompt: int, labels: float = 0.0, **options: Any) -> None:
    """Sets terms and scheme of a method, one of METHODS; `prompt` is as in schemes.on_policy.

    `labels` is the share that the labels of the data have in the word-level methods. `options` go to the schemes that
    generate texts: of sequence_level to "sequence" and "interpolated", of on_policy and replay to the others.
    """
    loss: dict[str, Any]
    if method in WORD:
        loss, scheme = {**(supervised(labels) if labels else {}), "kd": kd(method, 1 - labels)}, None
    elif method in ("sequence", "interpolated"):
        choose = "nearest" if method == "interpolated" else "best"
        loss, scheme = supervised(), part("schemes.sequence_level.build", prompt=prompt, choose=choose, **options)
    elif method == "minillm":
        loss = term(
            "losses.on_policy.sequence_reverse_kl_loss",
            ("student.logits",),
            ("teacher.logits", "batch.label"),
            kwargs={"mix": 0.2, "long": 1.0},
            where="batch.labelled",
        )
        loss = {"kd": loss, "ce": on_data(1.0)}
        scheme = part("schemes.on_policy.build", prompt=prompt, share=1.0, sampler="mixed", mix=0.2, **options)
    elif method == "distillm":
        loss, scheme = {"kd": kd("skew_kl")}, part("schemes.replay.build", prompt=prompt, **options)
    else:
        loss = supervised() if method == "teacher_samples" else {"kd": kd("jsd")}
        sampler = {"teacher_samples": "teacher", "on_policy": "student", "speculative": "speculative"}[method]
        scheme = part("schemes.on_policy.build", prompt=prompt, share=SHARE, sampler=sampler, **options)
    config.terms = loss
    if scheme is not None:
        config.scheme = scheme


def require_fused(method: str, terms: Mapping[str, Any]) -> None:
    """Raises ValueError where a loss of the method needs the logits of all tokens at once (losses/needs.py)."""
    for name, fields in terms.items():
        loss = resolve(fields["fn"]) if fields.get("fn") else None
        if loss is not None and not is_by_token(loss) and passes_of(loss) is None:
            raise ValueError(
                f"fused: {method} cannot be: the term {name!r}, {fields['fn']}, needs the logits of whole texts."
            )
