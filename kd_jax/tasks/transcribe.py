"""Transcription: the text of a recording, by CTC, scored by word errors."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.models.speech.ctc_search import greedy
from kd_jax.tasks.common import comparable, means
from kd_jax.tasks.transcribe_terms import transcript_nll
from kd_jax.types import Array, Headline, Outputs, Run, Shown, Task, Term

ROWS = {
    "wer": ("word error rate", "%"),
    "cer": ("character error rate", "%"),
    "nll": ("NLL a symbol", ""),
    "agreement": ("frames as the teacher's", "%"),
}


def task(source: Any = None) -> Task:
    """Returns the task of labels int [n, length], the symbols of a transcript, -1 behind its end, 0 CTC's blank.

    Networks answer logits [batch, frames, symbols]; the batch's entry `frames` bool [batch, frames] says which are no
    padding (models.speech.log_mel.features). Headline is the word error rate of greedy transcripts, (substitutions +
    deletions + insertions) / words by jiwer; its error takes recordings as the independent draws. The names of the
    classes are the symbols. ValueError without jiwer, without a source, and for labels of another form.
    """
    if importlib.util.find_spec("jiwer") is None:
        raise ValueError("tasks.transcribe counts word errors by jiwer, which is not here: pip install jiwer")
    if source is None:
        raise ValueError("tasks.transcribe.task reads symbols from a source: task(source).")
    symbols = tuple(map(str, source.class_names))
    return Task(
        terms=terms,
        check=functools.partial(check, source=source),
        sums=sums,
        finish=functools.partial(finish, symbols=symbols),
        headline=Headline("wer", -1, "%", "wer_error"),
        collect=collect,
        chance=nothing_said,
        rows=ROWS,
        show=functools.partial(show, symbols=symbols),
        name="transcribe",
        predict=functools.partial(texts, symbols=symbols),
        predicts="the text of a recording",
    )


def nothing_said(labels: np.ndarray) -> float:
    """Returns the word error rate of empty transcripts, 1, whatever the labels are."""
    del labels
    return 1.0


def terms(source: Any) -> dict[str, Term]:
    """Returns the negative log-likelihood of transcripts a symbol, over recordings that have one.

    ValueError for labels that are no rows of symbols, and for gaps, blanks and numbers that no symbol has in them.
    """
    labels = source.labels
    if labels is not None:
        if labels.ndim != 2 or labels.dtype != np.int32:
            raise ValueError(
                f"The labels of {source.name} are {labels.dtype} {labels.shape}, and the task takes transcripts, "
                "integers [recordings, length], -1 behind their ends."
            )
        there = labels >= 0
        wrong = (there[:, 1:] & ~there[:, :-1]).any(1) | (labels == 0).any(1) | (labels >= source.num_classes).any(1)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"{source.name}/{source.split}: the transcript of recording {row}, {labels[row].tolist()}, is no row "
                f"of symbols 1 to {source.num_classes - 1} and -1 behind them; 0 is CTC's blank."
            )
    paths = ("student.logits",), ("batch.label", "batch.frames")
    return {"ctc": Term(transcript_nll, *paths, where="batch.labelled")}


def check(outputs: Outputs, batch: Mapping[str, Any], source: Any) -> None:
    """Raises ValueError unless the output is [batch, frames, symbols] and has frames enough for each transcript."""
    shape = jax.tree.map(jnp.shape, outputs.logits)
    if len(shape) != 3 or (shape[0], shape[2]) != (len(batch["label"]), source.num_classes):
        wanted = f"[batch, frames, symbols], ({len(batch['label'])}, frames, {source.num_classes})"
        raise ValueError(f"its output has shape {shape}; on this data it is {wanted}")
    labels = source.labels
    if labels is not None:
        needed = (labels >= 0).sum(1) + ((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] >= 0)).sum(1)
        if needed.max(initial=0) > shape[1]:
            raise ValueError(
                f"it answers {shape[1]} frames, and the transcript of recording {int(needed.argmax())} of "
                f"{source.name}/{source.split} needs {needed.max()}: one a symbol, and one between two equal ones"
            )


def sums(run: Run, batch: Mapping[str, Array], reference: Outputs | None, key: Array) -> dict[str, Any]:
    """Returns sums over the symbols of transcripts, and over frames in the comparison with the reference."""
    logits, labels, frames = run().logits, batch["label"], batch["frames"] & batch["mask"][:, None]
    count = (labels >= 0).sum(1)
    counted = batch["mask"] & (count > 0)
    nll = transcript_nll(logits, labels, batch["frames"]) * count
    totals = {"nll": (jnp.where(counted, nll, 0.0).sum(), jnp.where(counted, count, 0).sum())}
    others = comparable(reference, logits)
    if others is not None:
        same = (logits.argmax(-1) == others.argmax(-1)) & frames
        totals["agreement"] = (same.sum(dtype=jnp.float32), frames.sum())
    return totals


def collect(run: Run, batch: Mapping[str, Array], key: Array) -> dict[str, Array]:
    """Returns the transcripts: {"symbols": greedy ones int [batch, frames], "label": those of the data}."""
    return {"symbols": greedy(run().logits), "label": batch["label"]}


def finish(sums: Mapping[str, tuple[Any, Any]], collected: Mapping[str, Any], symbols: Sequence[str]) -> dict[str, Any]:
    """Returns the means, the error rates of words and characters, and the standard error of the former.

    That is sqrt(sum over recordings of (errors - rate words)^2) / words. Recordings without a transcript are left out.
    """
    values: dict[str, Any] = {**means(sums), "wer": None, "cer": None, "wer_error": None}
    scored = collected["scored"]
    pairs = [
        (text_of(label, symbols), text_of(row, symbols))
        for label, row in zip(scored["label"], scored["symbols"], strict=True)
        if (label >= 0).any()
    ]
    if pairs:
        import jiwer  # here, since only scoring needs it

        words = np.array([_errors(jiwer.process_words(*pair)) for pair in pairs], float)
        letters = np.array([_errors(jiwer.process_characters(*pair)) for pair in pairs], float)
        (errors, count), (wrong, length) = words.sum(0), letters.sum(0)
        values["wer"], values["cer"] = errors / count, wrong / length
        values["wer_error"] = math.sqrt(((words[:, 0] - values["wer"] * words[:, 1]) ** 2).sum()) / count
    return values


def _errors(aligned: Any) -> tuple[int, int]:
    """(errors, length of the reference) of what jiwer aligned."""
    errors = aligned.substitutions + aligned.deletions
    return errors + aligned.insertions, errors + aligned.hits


def text_of(row: Any, symbols: Sequence[str]) -> str:
    """Returns the text of symbols, those below 0 left out, with one space between words."""
    return " ".join("".join(symbols[int(s)] for s in row if s >= 0).split())


def texts(logits: Any, symbols: Sequence[str]) -> np.ndarray:
    """Returns the greedy transcript of each recording, texts [batch], of logits [batch, frames, symbols]."""
    return np.array([text_of(row, symbols) for row in np.asarray(greedy(logits))])


def show(shown: Shown, symbols: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the section of what each network hears in the first test recordings."""
    labels = np.asarray(shown.batch["label"])
    if not shown.outputs or not len(labels):
        return []
    heard = {role: texts(outputs.logits, symbols) for role, outputs in shown.outputs.items()}
    count = min(shown.count, len(labels))
    lines = [
        "\n".join([f"spoken: {text_of(labels[i], symbols)}", *(f"{role}: {rows[i]}" for role, rows in heard.items())])
        for i in range(count)
    ]
    lead = "Greedy transcripts of test recordings: the likeliest symbol of each frame, repeats and blanks left out."
    return [
        {
            "kind": "texts",
            "title": "Transcripts",
            "lead": lead,
            "texts": lines,
            "labels": [f"recording {i}" for i in range(count)],
        }
    ]
