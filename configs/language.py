"""Language models on the King James Bible: a decoder of 0.6 M parameters teaches one of 60 k, by any published method.

python launch.py --config=configs/language.py                  # word-level KD, characters
python launch.py --config=configs/language.py:on_policy        # GKD: half of the batches are the student's own texts
python launch.py --config=configs/language.py:jsd,bpe          # another divergence, byte-pair tokens
python launch.py --config=configs/language.py:minillm --config.data.directory=my_texts/

Needs Debian's `bible` (apt-get install bible-kjv) or a folder of text files. In a few minutes on two cores it trains
the teacher, the student without and with it, and reports perplexity, agreement and what they write. After the colon:

  word reverse_kl jsd skew_kl skew_reverse_kl akl tv   word-level: a divergence at every token of the data
  sequence interpolated    the teacher's beam search as data, Kim & Rush 2016; the beam nearest to the data
  teacher_samples          fresh samples of the teacher as data
  on_policy                GKD 2023: generalised JSD, half of the batches written by the student
  speculative              GKD's loss on the teacher's samples, which the student proposes
  minillm                  MiniLLM 2023: reverse KL of sequences, teacher-mixed sampling, cross-entropy on the data
  distillm                 DistiLLM 2024: skew KL, adaptive off-policy replay
"""

from __future__ import annotations

from kd_jax.config import base, finish, parse, part, training
from kd_jax.config.language_methods import METHODS, WORD, set_method

TOKENS = ("character", "bpe")
PROMPT = 16  # tokens of a row that are given; the rest is written


def get_config(arg: str = ""):
    """`arg`: one of METHODS, character or bpe, small or tiny, in any order."""
    variant = parse(arg, data=TOKENS, variants=METHODS, flags=("small",))
    method = variant.variant
    config = base()
    config.title = f"King James Bible: {method}"
    config.data.update(dict(name="text", tokenizer=variant.data, length=64, test=0.05, validation=0.05, eval_limit=512))
    for part_of, width, depth in ((config.student, 48, 2), (config.teacher, 128, 3)):
        part_of.model = dict(
            name="models.language.decoder_families.llama", kwargs=dict(width=width, depth=depth, tied=True)
        )
        part_of.inputs = ("batch.tokens", "batch.segments")
    adam = dict(
        name="adamw",
        learning_rate=3e-3,
        weight_decay=0.0,
        clip_norm=1.0,
        warmup=0.05,
        kwargs=dict(b2=0.99, weight_decay=0.01),
    )
    config.train = training(batch_size=32, steps=600)
    config.teacher.train = training(batch_size=32, steps=1200)
    for train in (config.train, config.teacher.train):
        train.optimizer.update(adam)
    config.log_every, config.eval_every, config.eval_batch_size = 20, 200, 64
    config.summary = part("schemes.text_summary.samples", prompt=PROMPT)
    # Half labels, half teacher, as in the word-level interpolation of Kim & Rush.
    options = {"rows": 4096} if method in ("sequence", "interpolated") else {}
    set_method(config, method, PROMPT, labels=0.5 if method in WORD else 0.0, **options)
    if "small" in variant.flags:
        make_small(config)
    return finish(config, variant, tiny=tiny(config.scheme))


def make_small(config) -> None:
    """Rows of 32 tokens and networks of 100 k and 10 k parameters: what benchmarks/language.py compares methods on."""
    config.data.update(dict(length=32, eval_limit=1024))
    config.student.model.kwargs.update(dict(width=24, depth=1, heads=2))
    config.teacher.model.kwargs.update(dict(width=64, depth=2))
    config.train.steps, config.teacher.train.steps = 300, 800
    if "rows" in config.scheme.kwargs:
        config.scheme.kwargs.update(dict(rows=2048, batch=256))
    if config.scheme.name == "schemes.replay.build":
        config.scheme.kwargs.update(dict(every=20))


def tiny(scheme) -> dict:
    """What differs in a few steps of small networks on short rows."""
    small = dict(model=dict(kwargs=dict(width=16, depth=1, heads=2)))
    few: dict[str, dict] = dict(data=dict(length=24, eval_limit=32), student=small, teacher=small)
    if "rows" in scheme.kwargs:
        few["scheme"] = dict(kwargs=dict(rows=24, batch=8, beams=2))
    if scheme.name == "schemes.replay.build":
        few["scheme"] = dict(kwargs=dict(every=2, capacity=32, held_out=8, start=0.5))
    return few
