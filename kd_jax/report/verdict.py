"""Was it worth it? The answer in plain words, computed from the numbers of results.json."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

ROLES = ("teacher", "baseline", "student")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`kind` is "gain", "noise", "loss" or "unknown"; `facts` are (number, what it is) for the tiles."""

    kind: str
    headline: str
    paragraphs: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]


def number(tree: Any, *path: str) -> float | None:
    """The finite number at `path` in nested dicts, or None: any part may be missing, None or nan."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    if isinstance(tree, bool) or not isinstance(tree, numbers.Real) or not math.isfinite(tree):
        return None
    return float(tree)


def models(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The models that the run has, in the order teacher, baseline, student."""
    found = results.get("models") or {}
    return {role: found[role] for role in ROLES if found.get(role)}


def of_tokens(results: Mapping[str, Any]) -> bool:
    """Whether what is predicted are the tokens of a text: perplexity then says what accuracy says of images."""
    return bool((results.get("data") or {}).get("per_token"))


def standard_error(accuracy: float, examples: float) -> float:
    """sqrt(p (1 - p) / n): the binomial standard error of an accuracy measured on n examples."""
    return math.sqrt(max(0.0, accuracy * (1 - accuracy)) / examples)


def difference(results: Mapping[str, Any], role: str, other: str) -> tuple[float, float] | None:
    """(accuracy of role - accuracy of other, two standard errors of it), last step, test set; None if not known.

    The errors are added as if the models were tested on different examples. They share the test set, so the true error
    of the difference is smaller: calling it noise is the cautious side.
    """
    found, examples = models(results), number(results, "data", "test")
    a, b = (number(found.get(name), "last", "test", "accuracy") for name in (role, other))
    if a is None or b is None or not examples:
        return None
    return a - b, 2 * math.hypot(standard_error(a, examples), standard_error(b, examples))


def judge(results: Mapping[str, Any]) -> Verdict:
    """The verdict over the student: gain over the same network trained alone, gap closed, cost against the teacher."""
    found = models(results)
    student = found.get("student")
    if student is None or number(student, "last", "test", "accuracy") is None:
        return Verdict("unknown", "There is no answer: no student was evaluated on a test set.", (), ())
    text = of_tokens(results)
    kind, headline, sentences, facts = (_text_gain if text else _gain)(results)
    gap, one = (_text_gap if text else _gap)(results), "sequence" if text else "image"
    paragraphs = [sentences, []]
    sentences += _labels(results)
    parts = (gap, _size(found, one), _fidelity(found, "tokens" if text else "images"), _cost(found))
    for paragraph, (more, more_facts) in enumerate(parts):
        paragraphs[min(paragraph, 1)] += more
        facts += more_facts
    return Verdict(kind, headline, tuple(" ".join(lines) for lines in paragraphs if lines), tuple(facts))


def _gain(results: Mapping[str, Any]) -> tuple[str, str, list[str], list[tuple[str, str]]]:
    found = models(results)
    student = number(found["student"], "last", "test", "accuracy")
    baseline = number(found.get("baseline"), "last", "test", "accuracy")
    if baseline is None:
        words = [
            f"The student is right on {percent(student)} of the test images, but no baseline was trained: "
            "what the same network reaches without the teacher is not known."
        ]
        return "unknown", "Not known: there is no baseline to compare with.", words, []
    gain = student - baseline
    name, other = (str(found[role].get("name") or "unnamed") for role in ("student", "baseline"))
    how = "with the teacher's help" if "teacher" in found else "distilled"
    if name == other:
        words = [
            f"The same network ({name}) is right on {percent(student)} of the test images {how} "
            f"and on {percent(baseline)} without."
        ]
    else:
        words = [
            f"The student ({name}) is right on {percent(student)} of the test images; the baseline is another "
            f"network ({other}) and is right on {percent(baseline)}."
        ]
    facts = [(points(gain), "points over the baseline")]
    known = difference(results, "student", "baseline")
    if known is None:
        words.append("The size of the test set is not recorded, so it is not known whether this is more than noise.")
        return "unknown", f"Not known: {points(gain)} points, of unknown uncertainty.", words, facts
    noise = known[1]
    facts = [(f"{points(gain)} ± {100 * noise:.1f}", "points over the baseline (± two standard errors)")]
    examples = int(number(results, "data", "test"))
    if abs(gain) <= noise:
        words.append(
            f"That difference of {points(gain)} points is inside the noise of a test set of {examples:,} images "
            f"(±{100 * noise:.1f} points, two standard errors): it may as well be zero."
        )
        return "noise", f"Not measurably: {points(gain)} points is within noise.", words, facts
    beyond = f"more than the {100 * noise:.1f} points (two standard errors) that {examples:,} test images leave open"
    words.append(f"That difference of {points(gain)} points is {beyond}.")
    if gain > 0:
        return "gain", f"Yes: {points(gain)} points over training alone.", words, facts
    words.append("This student would have been better off without its teacher.")
    return "loss", f"No: {points(gain)} points against training alone.", words, facts


def nll_difference(results: Mapping[str, Any], role: str, other: str) -> tuple[float, float] | None:
    """(nll of other - nll of role, two standard errors of it), nats a token, last step, test split; None if not known.

    Errors are added as in `difference`, so calling it noise is the cautious side here too.
    """
    found = models(results)
    (a, b), (ea, eb) = (
        [number(found.get(name), "last", "test", key) for name in (role, other)] for key in ("nll", "nll_error")
    )
    return None if None in (a, b, ea, eb) else (b - a, 2 * math.hypot(ea, eb))


def _perplexity(results: Mapping[str, Any], role: str) -> float | None:
    return number(models(results).get(role), "last", "test", "perplexity")


def _text_gain(results: Mapping[str, Any]) -> tuple[str, str, list[str], list[tuple[str, str]]]:
    """_gain for a language model: perplexity, the lower the better."""
    student, baseline = (_perplexity(results, role) for role in ("student", "baseline"))
    known = nll_difference(results, "student", "baseline")
    if baseline is None or known is None:
        words = [
            f"The student's perplexity on the test text is {student:.4g}, but no baseline was trained: what the "
            "same network reaches without the teacher is not known."
        ]
        return "unknown", "Not known: there is no baseline to compare with.", words, []
    how = "with the teacher's help" if "teacher" in models(results) else "distilled"
    change, noise = 100 * (student / baseline - 1), 100 * known[1]
    percents = f"{change:+.1f}%".replace("-", "−")
    words = [f"The perplexity on the test text is {student:.4g} {how} and {baseline:.4g} without."]
    facts = [(f"{percents} ± {noise:.1f}", "perplexity against the baseline (± two standard errors)")]
    if abs(known[0]) <= known[1]:
        words.append(f"That difference is inside the noise of the test text (±{noise:.1f}%, two standard errors).")
        return "noise", f"Not measurably: a perplexity {percents} is within noise.", words, facts
    words.append(f"That is more than the {noise:.1f}% (two standard errors) that the test text leaves open.")
    if known[0] > 0:
        return "gain", f"Yes: perplexity {percents} against training alone.", words, facts
    words.append("This student would have been better off without its teacher.")
    return "loss", f"No: perplexity {percents} against training alone.", words, facts


def _text_gap(results: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, str]]]:
    room, gain = nll_difference(results, "teacher", "baseline"), nll_difference(results, "student", "baseline")
    if room is None or gain is None:
        return [], []
    if room[0] <= room[1]:
        how = "is not measurably better than" if room[0] > -room[1] else "is worse than"
        return [f"The teacher itself {how} the baseline: there is no gap to close."], []
    share, unsure = 100 * gain[0] / room[0], " (within noise, as above)" if abs(gain[0]) <= gain[1] else ""
    teacher = _perplexity(results, "teacher")
    words = f"The teacher's is {teacher:.4g}; the student closes {share:.0f}% of the gap in log-perplexity{unsure}."
    return [words], [(f"{share:.0f}%", "of the gap to the teacher closed")]


def _labels(results: Mapping[str, Any]) -> list[str]:
    """Who had which labels, where it was not the same for all: half of a gain may be the teacher's labels."""
    labelled, transfer, teacher = (number(results, "data", n) for n in ("labelled", "transfer", "teacher_labelled"))
    if not labelled or (not transfer and (teacher or labelled) == labelled):
        return []
    who = "Baseline and student" if "baseline" in models(results) else "The student"
    words = f"{who} had the labels of {int(labelled):,} images"
    words += f", the teacher those of {int(teacher):,}" if teacher else ""
    without = "the teacher's answers only" if "teacher" in models(results) else "no labels"
    seen = f"; of {int(transfer):,} more images the student saw {without}" if transfer else ""
    return [f"{words}{seen}."]


def _gap(results: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, str]]]:
    room, gain = difference(results, "teacher", "baseline"), difference(results, "student", "baseline")
    if room is None or gain is None:
        return [], []
    if room[0] <= room[1]:
        how = "is not measurably better than" if room[0] > -room[1] else "is worse than"
        return [f"The teacher itself {how} the baseline ({points(room[0])} points): there is no gap to close."], []
    share, unsure = gain[0] / room[0], " (within noise, as above)" if abs(gain[0]) <= gain[1] else ""
    gap = f"the gap of {100 * room[0]:.1f} points between baseline and teacher"
    if share > 1:
        words = f"It closes all of {gap} and passes the teacher."
    elif share >= 0:
        words = f"It closes {100 * share:.0f}% of {gap}{unsure}."
    else:
        words = f"It widens {gap}{unsure}."
    return [words], [(f"{100 * share:.0f}%", "of the gap to the teacher closed")]


def _size(found: Mapping[str, Mapping[str, Any]], one: str) -> tuple[list[str], list[tuple[str, str]]]:
    comparisons = (
        (("parameters",), "is", "smaller", "larger", "as many parameters"),
        (("flops",), "needs", "fewer FLOPs", "more FLOPs", "as many FLOPs"),
        (("latency_ms", "1"), "is", f"faster on one {one}", f"slower on one {one}", f"as long on one {one}"),
        (("latency_ms", "128"), "is", *(f"{how} on 128 {one}s" for how in ("faster", "slower", "as long"))),
    )
    words, facts = [], []
    for path, verb, less, more, same in comparisons:
        teacher, student = number(found.get("teacher"), *path), number(found["student"], *path)
        if not teacher or not student:
            continue
        ratio = max(teacher / student, student / teacher)
        how = less if teacher > student else more
        if ratio < 1.05:
            words.append(f"{'takes' if same.startswith('as long') else 'needs'} about {same}")
            continue
        words.append(f"{verb} {times(ratio)} {how}")
        if path != ("latency_ms", "128"):  # one speed is enough for the tiles
            facts.append((times(ratio), f"{how} than the teacher"))
    return ([f"Against the teacher, the student {_listed(words)}."] if words else []), facts


def _fidelity(found: Mapping[str, Mapping[str, Any]], things: str) -> tuple[list[str], list[tuple[str, str]]]:
    student = number(found["student"], "last", "test", "agreement")
    if student is None:
        return [], []
    baseline = number(found.get("baseline"), "last", "test", "agreement")
    against = "" if baseline is None else f" (the baseline, which never saw the teacher, on {percent(baseline)})"
    return [f"It predicts what the teacher predicts on {percent(student)} of the test {things}{against}."], [
        (percent(student), "agreement with the teacher")
    ]


def _cost(found: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[tuple[str, str]]]:
    teacher, baseline, student = (number(found.get(role), "train_seconds") for role in ROLES)
    parts = []
    if student and baseline:
        parts.append(f"training the student took {student / baseline:.1f} times as long as training the baseline")
    if teacher:
        parts.append(f"the teacher took {duration(teacher)} to train")
    return ([f"The price: {_listed(parts)}."] if parts else []), []


def caveats(results: Mapping[str, Any]) -> list[str]:
    """What the numbers do not show, and what was selected on what."""
    found = models(results)
    chosen = [(role, number(model, "best", "step")) for role, model in found.items()]
    chosen = [f"{role} {int(step):,}" for role, step in chosen if step is not None]
    held_out = number(results, "data", "validation")
    lines = []
    if chosen and held_out:
        lines.append(
            f"Selected on validation ({int(held_out):,} held-out examples): the step of each “best” row "
            f"({', '.join(chosen)}). This run selected nothing else; the answer at the top is that of the last step."
        )
    elif chosen:
        lines.append("The “best” rows were selected without a recorded validation set; do not report them.")
    else:
        lines.append("Nothing was selected on validation: all numbers are those of the last step.")
    lines.append(
        "One run with one seed: the ± given is the sampling error of the test set only. Between seeds the same "
        "recipe differs too, often by as much; repeat with other seeds before relying on a small difference."
    )
    return lines


def percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def points(value: float) -> str:
    """A difference of accuracies in percentage points, with its sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def times(ratio: float) -> str:
    return f"{ratio:.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
