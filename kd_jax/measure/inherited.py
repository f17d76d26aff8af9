"""What a student takes over from its teacher: errors of the same kind, beside chance and the baseline."""

from __future__ import annotations

import numpy as np

from kd_jax.measure.subject import Measure, Measured, Subject

ROWS = {
    "inherited": ("errors that are the teacher's too", "%"),
    "inherited_chance": ("the same, if errors were independent", "%"),
    "consistency": ("error consistency with the teacher (kappa)", ""),
    "new_errors": ("wrong where the teacher is right", "%"),
    "disagreement": ("disagrees with the teacher", "%"),
}


def measure(subject: Subject) -> Measured:
    """Returns inherited errors, chance, error consistency and disagreement of each network with "teacher".

    The baseline never saw the teacher: what its errors share with the teacher's is what the examples make hard. Test
    examples with a label; nothing where the teacher has other classes.
    """
    logits, labels = subject.labelled("test")
    if "teacher" not in logits or logits["teacher"].shape[-1] != subject.source("test").num_classes:
        return Measured({}, ROWS)
    theirs = logits["teacher"].argmax(-1)
    others = {role: answers.argmax(-1) for role, answers in logits.items() if role != "teacher"}
    return Measured({role: inherited(answers, theirs, labels) for role, answers in others.items()}, ROWS)


def inherited(answers: np.ndarray, teacher: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """Returns how the errors of answers int [n] go with those of a teacher int [n]; None where nothing can be counted.

    inherited         share of the errors where the teacher gives the same wrong answer
    inherited_chance  what that share would be if, within each class, both erred independently: sum over classes c and
                      wrong answers w of n_c p(w|c) q(w|c), over the number of errors
    consistency       (observed - expected) / (1 - expected) of "both right or both wrong", expected from both
                      accuracies alone (Cohen's kappa): 0 by chance, 1 for the same errors. Geirhos, Meding, Wichmann,
                      "Beyond Accuracy: Quantifying Trial-by-Trial Behaviour of CNNs and Humans by Measuring Error
                      Consistency", 2020, arXiv 2006.16736
    new_errors        share of the examples where the teacher is right and the network is not
    disagreement      share of the examples with another answer than the teacher's
    """
    if not len(labels):
        return dict.fromkeys(("inherited", "inherited_chance", "consistency", "new_errors", "disagreement"))
    answers, teacher, labels = (np.asarray(x).astype(np.int64) for x in (answers, teacher, labels))
    wrong, teacher_wrong = answers != labels, teacher != labels
    errors, n = int(wrong.sum()), len(labels)
    same = np.mean(wrong == teacher_wrong)
    mine, their = wrong.mean(), teacher_wrong.mean()
    expected = mine * their + (1 - mine) * (1 - their)
    return {
        "inherited": float((wrong & (answers == teacher)).sum() / errors) if errors else None,
        "inherited_chance": float(_chance(answers, teacher, labels) / errors) if errors else None,
        "consistency": float((same - expected) / (1 - expected)) if expected < 1 else None,
        "new_errors": float((wrong & ~teacher_wrong).sum() / n),
        "disagreement": float((answers != teacher).mean()),
    }


def _chance(answers: np.ndarray, teacher: np.ndarray, labels: np.ndarray) -> float:
    """The number of equal errors to expect of answers that are drawn anew among the examples of each class."""
    classes = int(max(x.max() for x in (answers, teacher, labels))) + 1
    total = 0.0
    for label in np.unique(labels):
        of_class = labels == label
        mine, their = (np.bincount(x[of_class], minlength=classes) for x in (answers, teacher))
        both = mine * their / of_class.sum()
        total += float(both.sum() - both[label])
    return total


MEASURE = Measure(measure, needs=("classes", "teacher"), cheap=True)
