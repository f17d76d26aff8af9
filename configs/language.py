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

from kd_jax.config import base, finish, parse, part, supervised, term, training

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
TOKENS = ("character", "bpe")
PROMPT = 16  # tokens of a row that are given; the rest is written


def kd(method: str, weight: float = 1.0) -> dict:
    """Returns a divergence between student and teacher at every counted token."""
    fn, kwargs = WORD[method]
    return term(
        f"losses.response.{fn}",
        ("student.logits",),
        ("teacher.logits",),
        weight=weight,
        kwargs=kwargs,
        where="batch.labelled",
    )


def on_data(weight: float) -> dict:
    """Cross-entropy on the data where the batch itself is generated."""
    return term(
        "losses.task.cross_entropy_loss",
        ("on_data.logits",),
        ("batch.data_target",),
        weight=weight,
        where="batch.data_labelled",
    )


def set_method(config, method: str, prompt: int) -> None:
    """Sets terms and scheme of a method; `prompt` as in schemes.on_policy."""
    if method in WORD:  # half labels, half teacher, as in the word-level interpolation of Kim & Rush
        config.terms = {**supervised(0.5), "kd": kd(method, 0.5)}
    elif method in ("sequence", "interpolated"):
        nearest = method == "interpolated"
        config.terms = supervised()
        config.scheme = part(
            "schemes.sequence_level.build", prompt=prompt, choose="nearest" if nearest else "best", rows=4096
        )
    elif method == "teacher_samples":
        config.terms = supervised()
        config.scheme = part("schemes.on_policy.build", prompt=prompt, share=0.5, sampler="teacher")
    elif method in ("on_policy", "speculative"):
        sampler = "student" if method == "on_policy" else "speculative"
        config.terms = {"kd": kd("jsd")}
        config.scheme = part("schemes.on_policy.build", prompt=prompt, share=0.5, sampler=sampler)
    elif method == "minillm":
        loss = term(
            "losses.on_policy.sequence_reverse_kl_loss",
            ("student.logits",),
            ("teacher.logits", "batch.label"),
            kwargs={"mix": 0.2, "long": 1.0},
            where="batch.labelled",
        )
        config.terms = {"kd": loss, "ce": on_data(1.0)}
        config.scheme = part("schemes.on_policy.build", prompt=prompt, share=1.0, sampler="mixed", mix=0.2)
    else:
        config.terms = {"kd": kd("skew_kl")}
        config.scheme = part("schemes.replay.build", prompt=prompt)


METHODS = (*WORD, *WRITTEN)


def get_config(arg: str = ""):
    """Returns the config; `arg`: one of METHODS, character or bpe, small or tiny, in any order."""
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
    set_method(config, method, PROMPT)
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
    """Returns what differs in a few steps of small networks on short rows."""
    small = dict(model=dict(kwargs=dict(width=16, depth=1, heads=2)))
    few: dict[str, dict] = dict(data=dict(length=24, eval_limit=32), student=small, teacher=small)
    if "rows" in scheme.kwargs:
        few["scheme"] = dict(kwargs=dict(rows=24, batch=8, beams=2))
    if scheme.name == "schemes.replay.build":
        few["scheme"] = dict(kwargs=dict(every=2, capacity=32, held_out=8, start=0.5))
    return few
