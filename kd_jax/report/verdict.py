"""Was it worth it? The answer in plain words, computed from the numbers of results.json by the task's headline."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from kd_jax.report import capacity, compared, fidelity, labelled
from kd_jax.report.cost import duration, listed, number, size_of
from kd_jax.tasks.units import Unit, name_of, percent, signed, unit_of
from kd_jax.types import Headline

ROLES = ("teacher", "baseline", "student")
ANSWERS = {"gain": "yes", "loss": "no", "noise": "not measurable", "unknown": "unknown"}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`kind` is "gain", "noise", "loss" or "unknown"; `facts` are (number, what it is) for the tiles.

    `gain` is how much better the student is than the baseline, `error` two standard errors of that, both as the unit
    counts (points of a percentage), None where they are not known.
    """

    kind: str
    headline: str
    paragraphs: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    gain: float | None = None
    error: float | None = None

    def as_json(self, headline: Headline) -> dict[str, Any]:
        """Returns what results.json says of the verdict."""
        text = " ".join([self.headline, *self.paragraphs])
        return {
            "answer": ANSWERS[self.kind],
            "metric": headline.metric,
            "unit": headline.unit,
            "gain": self.gain,
            "error": self.error,
            "text": text,
        }


def models(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the models that the run has, in the order teacher, baseline, student."""
    trained = results.get("models") or {}
    return {role: trained[role] for role in ROLES if trained.get(role)}


def headline_of(results: Mapping[str, Any]) -> Headline:
    """Returns the headline of the results; where they name none, "score", which nothing measured."""
    fields = results.get("headline") or {}
    return Headline(**fields) if fields.get("metric") and fields.get("sign") else Headline("score")


def noun_of(results: Mapping[str, Any]) -> str:
    """Returns what an example is called."""
    return str((results.get("data") or {}).get("noun") or "example")


def score(model: Mapping[str, Any] | None, headline: Headline, split: str = "test") -> float | None:
    """Returns the headline's metric of a model at the last step, None where it was not measured."""
    return number(model, "last", split, headline.metric)


def of_cached_answers(model: Mapping[str, Any]) -> str:
    """Returns what the scores of a cached teacher are of, where they are not its own; "" where they are."""
    return str((model.get("last") or {}).get("of") or "")


def difference(results: Mapping[str, Any], role: str, other: str) -> tuple[float, float | None] | None:
    """Returns (how much better `role` is than `other`, two standard errors of it or None), last step, test set.

    None where a score is missing, or is that of what a cache holds of a teacher. The errors are added as if the models
    were tested on different examples. They share the test set, so the true error of the difference is smaller: calling
    it noise is the cautious side.
    """
    headline, trained = headline_of(results), models(results)
    a, b = (score(trained.get(name), headline) for name in (role, other))
    if a is None or b is None or any(of_cached_answers(trained[name]) for name in (role, other)):
        return None
    errors = [number(trained[name], "last", "test", headline.error) for name in (role, other)]
    return headline.sign * (a - b), None if None in errors else 2 * math.hypot(*errors)


def judge(results: Mapping[str, Any]) -> Verdict:
    """Judges the student: gain over the same network trained alone, gap closed, cost against the teacher."""
    trained, headline = models(results), headline_of(results)
    student = trained.get("student")
    if student is None:
        return Verdict("unknown", "There is no answer: no student was evaluated on a test set.", (), ())
    if score(student, headline) is None:
        answer = _unmeasured(results)
    else:
        answer = _gain(results, headline, unit_of(headline))
    noun = noun_of(results)
    first, second, facts = [*answer.paragraphs, *labelled.sentences(results, trained, noun)], [], [*answer.facts]
    for paragraph, (sentences, more) in (
        (first, _gap(results, headline, unit_of(headline))),
        (second, size_of(trained, noun)),
        (first, (capacity.too_small(trained, noun), [])),
        (second, _fidelity(trained, fidelity.place_of(results, noun))),
        (second, _cost(trained)),
        (first, ([line] if (line := compared.of_run(results)) else [], [])),
    ):
        paragraph += sentences
        facts += more
    paragraphs = tuple(" ".join(lines) for lines in (first, second) if lines)
    return dataclasses.replace(answer, paragraphs=paragraphs, facts=tuple(facts))


def _unmeasured(results: Mapping[str, Any]) -> Verdict:
    """Where no test example has a label, agreement with the teacher is all that can be known."""
    name = name_of(headline_of(results))
    words = f"The {name} of the student is not known: no {noun_of(results)} of the test set has a label."
    return Verdict("unknown", f"Not known: there are no labels to measure the {name} by.", (words,), ())


def _gain(results: Mapping[str, Any], headline: Headline, unit: Unit) -> Verdict:
    trained, name = models(results), name_of(headline)
    student, baseline = (score(trained.get(role), headline) for role in ("student", "baseline"))
    compared = difference(results, "student", "baseline")
    if baseline is None or compared is None:
        words = (
            f"The student's {name} on the test {noun_of(results)}s is {unit.text(student)}, but no baseline was "
            "trained: what the same network reaches without the teacher is not known."
        )
        return Verdict("unknown", "Not known: there is no baseline to compare with.", (words,), ())
    words = [_compared(results, unit, name, student, baseline)]
    gain, noise = compared
    change = unit.difference(headline.sign * gain) + unit.word
    plot = unit.plot if headline.unit == "%" else float
    subject = "" if headline.unit == "%" else f"{name} "
    tile = f"{unit.word.strip() or name} {'over' if headline.sign > 0 else 'against'} the baseline"
    if noise is None:
        words.append("The error of that is not known, so it is not known whether it is more than noise.")
        facts = ((unit.difference(headline.sign * gain), tile),)
        text = f"Not known: {subject}{change}, of unknown uncertainty."
        return Verdict("unknown", text, tuple(words), facts, plot(gain))
    error, margin = unit.noise(noise), f"(±{unit.noise(noise)}{unit.word}, two standard errors)"
    facts = ((f"{unit.difference(headline.sign * gain)} ± {error.rstrip('%')}", f"{tile} (± two standard errors)"),)
    measured, early, test = (plot(gain), plot(noise)), _too_early(trained, headline), _test_set(results)
    if abs(gain) <= noise:
        inside = f"That difference of {change} is inside the noise of {test} {margin}: it may as well be zero."
        text = f"Not measurably: {subject}{change} is within noise.{' Train longer.' if early else ''}"
        return Verdict("noise", text, (*words, inside, *early), facts, *measured)
    words += [f"That difference of {change} is more than {test} leaves open {margin}.", *early]
    if gain > 0:
        against = "over" if headline.sign > 0 else "against"
        return Verdict("gain", f"Yes: {subject}{change} {against} training alone.", tuple(words), facts, *measured)
    if early:  # who learns faster may be overtaken: that is no answer yet
        text = f"Not known yet: {subject}{change} against training alone, and all were still improving. Train longer."
        return Verdict("unknown", text, tuple(words), facts, *measured)
    words.append("This student would have been better off without its teacher.")
    return Verdict("loss", f"No: {subject}{change} against training alone.", tuple(words), facts, *measured)


def _test_set(results: Mapping[str, Any]) -> str:
    examples = number(results, "data", "test")
    return f"a test set of {int(examples):,} {noun_of(results)}s" if examples else "the test set"


def _too_early(trained: Mapping[str, Mapping[str, Any]], headline: Headline) -> list[str]:
    """A sentence where every network that the run trained was still improving when its training ended."""
    names = [role for role, model in trained.items() if model.get("curve")]
    if not {"baseline", "student"} <= {*names} or not all(_improving(trained[role], headline) for role in names):
        return []
    return [
        f"{listed(names).capitalize()} were all still improving when training ended: on validation the last "
        f"{name_of(headline)} of each is its best, by more than two standard errors over all in the first nine tenths "
        "of its steps. Train longer."
    ]


def _improving(model: Mapping[str, Any], headline: Headline) -> bool:
    """Whether the last evaluation is the best, by more than its noise over those before the last tenth of the steps.

    Fewer than four evaluations, or scores of unknown error, do not show that.
    """
    metric, error = (f"validation_{name}" for name in (headline.metric, headline.error))
    points = [(p, number(p, metric)) for p in model["curve"]]
    points = [(number(p, "step") or 0.0, headline.sign * value, p) for p, value in points if value is not None]
    noise = number(points[-1][2], error) if len(points) >= 4 else None
    if noise is None:
        return False
    (end, last, _), before = points[-1], points[:-1]
    earlier = [value for step, value, _ in before if step <= 0.9 * end]
    return bool(earlier) and last > max(value for _, value, _ in before) and last - max(earlier) > 2 * noise


def _compared(results: Mapping[str, Any], unit: Unit, metric: str, student: float, baseline: float) -> str:
    trained, noun = models(results), noun_of(results)
    name, other = (str(trained[role].get("name") or "unnamed") for role in ("student", "baseline"))
    how = "with the teacher's help" if "teacher" in trained else "distilled"
    if name == other:
        return (
            f"The {metric} of the same network ({name}) on the test {noun}s is {unit.text(student)} {how} and "
            f"{unit.text(baseline)} without."
        )
    return (
        f"The {metric} of the student ({name}) on the test {noun}s is {unit.text(student)}; the baseline is another "
        f"network ({other}), whose {metric} is {unit.text(baseline)}."
    )


def _gap(results: Mapping[str, Any], headline: Headline, unit: Unit) -> tuple[list[str], list[tuple[str, str]]]:
    room, gain = difference(results, "teacher", "baseline"), difference(results, "student", "baseline")
    if room is None or gain is None or room[1] is None:
        return [], []
    change = unit.difference(headline.sign * room[0]) + unit.word
    if room[0] <= room[1]:
        how = "is not measurably better than" if room[0] > -room[1] else "is worse than"
        words = f"The teacher itself {how} the baseline ({change}): there is no gap to close."
        return [f"{words} A stronger one comes first: larger, trained longer, or with more labels."], []
    within = gain[1] is not None and abs(gain[0]) <= gain[1]
    share, unsure = gain[0] / room[0], " (within noise, as above)" if within else ""
    gap = f"the gap of {change.lstrip('+−')} between baseline and teacher"
    if share > 1:
        words = f"It closes all of {gap} and passes the teacher."
    elif share >= 0:
        words = f"It closes {100 * share:.0f}% of {gap}{unsure}."
    else:
        words = f"It widens {gap}{unsure}."
    return [words], [(signed(f"{100 * share:.0f}%"), "of the gap to the teacher closed")]


def _fidelity(trained: Mapping[str, Mapping[str, Any]], noun: str) -> tuple[list[str], list[tuple[str, str]]]:
    student = number(trained["student"], "last", "test", "agreement")
    if student is None:
        return [], []
    baseline = number(trained.get("baseline"), "last", "test", "agreement")
    against = "" if baseline is None else f" (the baseline, which never saw the teacher, on {percent(baseline)})"
    return [f"It predicts what the teacher predicts on {percent(student)} of the test {noun}s{against}."], [
        (percent(student), "agreement with the teacher")
    ]


def _cost(trained: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[tuple[str, str]]]:
    teacher, baseline, student = (number(trained.get(role), "train_seconds") for role in ROLES)
    parts = []
    if student and baseline:
        parts.append(f"training the student took {student / baseline:.1f} times as long as training the baseline")
    if teacher:
        parts.append(f"the teacher took {duration(teacher)} to train")
    return ([f"The price: {listed(parts)}."] if parts else []), []


def caveats(results: Mapping[str, Any]) -> list[str]:
    """Returns what the numbers do not show, and what was selected on which split."""
    trained = models(results)
    chosen = [(role, number(model, "best", "step")) for role, model in trained.items()]
    chosen = [f"{role} {int(step):,}" for role, step in chosen if step is not None]
    held_out = number(results, "data", "validation")
    lines = []
    if chosen and held_out:
        lines.append(
            f"Selected on validation ({int(held_out):,} held-out {noun_of(results)}s): the step of each “best” row "
            f"({', '.join(chosen)}). This run selected nothing else; the answer at the top is that of the last step."
        )
    elif chosen:
        lines.append("The “best” rows were selected without a recorded validation set; do not report them.")
    else:
        lines.append("Nothing was selected on validation: all numbers are those of the last step.")
    lines += _cached(trained.get("teacher") or {})
    lines.append(
        "One run with one seed: the ± given is the sampling error of the test set only. Between seeds the same "
        "recipe differs too, often by as much; repeat with other seeds before relying on a small difference."
    )
    return lines


def _cached(teacher: Mapping[str, Any]) -> list[str]:
    """What was compared with the teacher where a cache holds less than it said."""
    stored = teacher.get("answers")
    if not stored:
        return []
    what = f"{stored['k']} largest log-probabilities and the sum of the rest" if stored["k"] else "logits"
    kinds = of_cached_answers(teacher)
    whose = f"of its {kinds} too, as it is not on this machine" if kinds else "its own"
    return [
        f"The teacher's {what} were cached in {stored['dtype']}: agreement, divergence from it and examples are by "
        f"these. The scores in its column are {whose}."
    ]
