"""A teacher behind an API: a file of what it wrote, with the log-probabilities of its likeliest tokens, is enough.

python launch.py --config=configs/api_teacher.py --config.data.directory=answers.jsonl --config.data.tokenizer=t.json

kd_jax/data/text/pairs.py has the format, one JSON object a line. `data.tokenizer` is the tokenizer.json of the API's
model. The student learns the written tokens and, at each, the listed probabilities with one bucket for all others.
There is no teacher to evaluate against: the report has the student's perplexity on held-out answers, beside a student
that learned the written tokens alone. Check before use that the terms of the service allow training on its outputs, and
under which licence the student may be used.
"""

from __future__ import annotations

from kd_jax.config import base, finish, parse, supervised, term, training


def get_config(arg: str = ""):
    """Returns the config; `arg`: tiny or nothing."""
    variant = parse(arg)
    config = base()
    config.title = "Answers of an API"
    config.data.update(dict(name="pairs", directory="answers.jsonl", length=256, test=0.1, validation=0.1))
    config.teacher.model.name = ""
    config.student.model = dict(
        name="models.language.decoder_families.llama", kwargs=dict(width=256, depth=4, tied=True)
    )
    config.student.inputs = ("batch.tokens", "batch.segments")
    config.train = training(batch_size=16, epochs=3.0)
    adam = dict(name="adamw", learning_rate=1e-3, weight_decay=0.0, kwargs=dict(weight_decay=0.01))
    config.train.optimizer.update(dict(**adam, clip_norm=1.0, warmup=0.05))
    listed = term(
        "losses.response_vocabulary.topk_kd_loss",
        ("student.logits",),
        ("batch.top_log_probs", "batch.top_ids"),
        kwargs={"temperature": 1.0, "tail": "bucket"},
        where="batch.labelled",
    )
    config.terms = {**supervised(0.5), "kd": {**listed, "weight": 0.5}}
    small = dict(model=dict(kwargs=dict(width=8, depth=1, heads=2)))
    return finish(config, variant, tiny=dict(data=dict(limit=0, length=24), student=small))
