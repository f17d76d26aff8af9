"""Reasoning traces: a student learns sums of two-digit numbers from a teacher that adds digit by digit.

python launch.py --config=configs/reasoning.py              # answers of the data alone
python launch.py --config=configs/reasoning.py:filtered     # the teacher's own chains, where the answer is right
python launch.py --config=configs/reasoning.py:chain --config.data.directory=traces.jsonl

The teacher is trained on chains of the data ("7+8=15. 2+5+1=8. 85"). The student has 1,000 problems:

  answer     the answers                        rationale  both, as two tasks (Distilling Step-by-Step 2023)
  chain      chains of the data, then the answer, with the teacher's distribution at every token
  generated  chains that the teacher writes     filtered   those of them whose answer is right (Ho et al. 2022)
  on_policy  chains that the student writes, corrected by the teacher token by token (GKD 2023)

What counts is the table "Answers" of the report: the share of test problems whose answer, written greedily, is right.
Perplexities of different kinds of responses are not comparable. Minutes on two cores.
"""

from __future__ import annotations

from kd_jax.config import base, finish, parse, part, supervised, term, training

METHODS = ("answer", "rationale", "chain", "generated", "filtered", "on_policy")
ANSWER = r"(\d+)$"


def get_config(arg: str = ""):
    """Returns the config; `arg`: one of METHODS, and tiny, in any order."""
    variant = parse(arg, variants=METHODS)
    method = variant.variant
    config = base()
    config.title = f"Sums of two-digit numbers: {method}"
    config.data.update(dict(name="pairs", length=40, test=0.1, validation=0.1, limit=1000, eval_limit=256))
    config.data.rationale = {"answer": "none", "rationale": "task"}.get(method, "first")
    config.teacher.data.update(dict(rationale="first", limit=4000))
    for part_of, width, depth in ((config.student, 32, 2), (config.teacher, 96, 3)):
        part_of.model = dict(
            name="models.language.decoder_families.llama", kwargs=dict(width=width, depth=depth, tied=True)
        )
        part_of.inputs = ("batch.tokens", "batch.segments")
    config.train = training(batch_size=32, steps=1500)
    config.teacher.train = training(batch_size=32, steps=1500)
    for train in (config.train, config.teacher.train):
        adam = dict(b2=0.99, weight_decay=0.01)
        train.optimizer.update(
            dict(name="adamw", learning_rate=3e-3, weight_decay=0.0, clip_norm=1.0, warmup=0.05, kwargs=adam)
        )
    config.log_every, config.eval_every, config.eval_batch_size = 50, 500, 64
    prefix = "[answer] " if method == "rationale" else ""
    config.summary = part("schemes.text_summary.exact_match", answer=ANSWER, prefix=prefix)
    config.terms = supervised()
    if method == "rationale":
        config.data.limit = 2000  # two tasks a problem
        config.teacher.model.name = ""
    elif method == "answer":
        config.teacher.model.name, config.baseline = "", False
    elif method in ("generated", "filtered"):
        config.scheme = part(
            "schemes.sequence_level.build", prompt=0, beams=0, answer=ANSWER if method == "filtered" else ""
        )
    else:
        kd = term(
            "losses.response.jsd_loss",
            ("student.logits",),
            ("teacher.logits",),
            kwargs={"beta": 0.5},
            where="batch.labelled",
        )
        config.terms = {**(supervised() if method == "chain" else {}), "kd": kd}
        if method == "on_policy":
            config.scheme = part("schemes.on_policy.build", prompt=0, share=0.5)
    small = dict(model=dict(kwargs=dict(width=8, depth=1, heads=2)))
    tiny: dict[str, dict] = dict(data=dict(limit=64, eval_limit=32), summary=dict(kwargs=dict(count=8)))
    tiny |= dict(student=small, teacher=dict(data=dict(limit=64), **small))
    if method == "filtered":
        tiny["scheme"] = dict(kwargs=dict(answer=""))  # after so few steps no answer is right
    return finish(config, variant, tiny=tiny)
