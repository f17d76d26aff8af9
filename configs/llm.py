"""Published language models: from two Hugging Face folders and your prompts to a folder that is served.

python launch.py --config=configs/llm.py --config.teacher.path=FOLDER --config.student.path=FOLDER \\
    --config.data.path=FILE.jsonl --workdir=DIR
python launch.py --config=configs/llm.py:on_policy,lora,chat ...       # GKD on prompts, adapters alone are trained
python launch.py --config=configs/llm.py:reverse_kl --config.teacher.path=FOLDER --config.student.layers=6 ...

Folders are as transformers writes them (Llama, Mistral, Mixtral, Qwen, Gemma, Granite, OLMo 2, Phi-3 and 4-mini,
SmolLM3, GPT-2); tokens, chat template and what begins and ends a text come from their files. Lines of the data are
{"messages": [...]}, {"prompt", "completion"}, {"prompt"} alone (on_policy and what else writes texts) or {"text"}. The
student is written to DIR/student/hf, with `lora` its adapters to DIR/student/peft as well. docs/language.md has the
road in ten lines.
After the colon:

  word reverse_kl jsd skew_kl skew_reverse_kl akl tv   a divergence at every token of the answers; word is forward KL
  sequence interpolated    the teacher's beam search as answers; the beam nearest to the data
  teacher_samples          fresh samples of the teacher as answers
  on_policy                GKD: generalised JSD, half of the batches written by the student
  speculative              GKD's loss on the teacher's samples, which the student proposes
  minillm distillm         reverse KL of sequences with mixed sampling; skew KL with adaptive replay

  cross                    a teacher with another tokenizer: X-Token's projection of the student's tokens on its own;
                           --config.terms.kd.kwargs.loss="uld" (sorted probabilities) or "likelihood" (ALM)

  lora    low-rank adapters of every linear layer on the frozen student; --config.student.model.kwargs.targets="query"
  fused   losses build the logits of a few tokens at a time wherever they can; the word refuses a method that cannot
  chat    a plain prompt is what a user says, its completion what the assistant answers, in the student's chat template
"""

from __future__ import annotations

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from kd_jax.config import base, finish, parse, part, supervised, teacher_fields, term, training
from kd_jax.config.language_methods import METHODS, WORD, require_fused, set_method

INPUTS = ("batch.tokens", "batch.segments")
CROSS = "cross"
# What the loss between tokenizers reads of a batch (data/text/cross.py).
GROUPED = {
    **dict(student_labels="label", teacher_labels="teacher_label", valid="group_valid"),
    **dict(student_groups="student_groups", teacher_groups="teacher_groups"),
}
DECODER = "models.language.published.decoder"
LINEAR = r"(attention|mlp)/\w+$"  # every linear layer of a decoder's blocks


def get_config(arg: str = "") -> ConfigDict:
    """Returns the config; `arg`: one of METHODS, lora, fused, chat or tiny, in any order."""
    variant = parse(arg, variants=(*METHODS, CROSS), flags=("lora", "fused", "chat"))
    method = variant.variant
    config = base()
    config.title = f"Published language models: {method}"
    config.data.update(dict(name="data.text.conversations.load", tokenizer="", test=0.1, validation=0.1))
    config.data.chat = "chat" in variant.flags
    # As long as the positions of the networks allow, and at most 512.
    config.data.length = placeholder(int)
    # What begins with a prompt is one text a row.
    config.data.packing = "packed" if method in WORD else "padded"
    config.student.model, config.student.inputs = part(DECODER), INPUTS
    config.teacher = teacher_fields(DECODER, inputs=INPUTS)
    rate = 2e-5
    if "lora" in variant.flags:
        network = part("models.lora.lora", module=part(DECODER), rank=16, alpha=32.0, targets=LINEAR)
        config.student.model, config.student.inputs = network, (*INPUTS, "params.base")
        config.teachers.base = teacher_fields(DECODER, inputs=INPUTS)
        rate = 2e-4
    config.train = training(batch_size=16, steps=200)
    config.train.optimizer.update(dict(name="adamw", learning_rate=rate, weight_decay=0.0, clip_norm=1.0, warmup=0.05))
    config.log_every, config.eval_batch_size, config.keep = 10, 16, 1
    config.summary = part("schemes.text_summary.answers")
    config.export = part("export.published.write")
    # Published students write already: no steps on the data come first.
    options = {} if method in (*WORD, CROSS, "sequence", "interpolated") else {"warmup": 0.0}
    if method == CROSS:
        set_cross(config)
    else:
        set_method(config, method, prompt=0, **options)
    if "fused" in variant.flags:
        require_fused(method, config.terms)
    return finish(config, variant, tiny=tiny(config))


def set_cross(config: ConfigDict) -> None:
    """Sets a teacher with another tokenizer: both read the same texts, and bits per byte compare them."""
    student, teacher = config.student.get_ref("path"), config.teacher.get_ref("path")
    config.data.update(dict(name="data.text.cross.load", teacher_tokenizer=teacher))
    config.teacher.data.update(dict(name="data.text.conversations.load", teacher_tokenizer=""))
    config.teacher.data.tokenizer = teacher
    config.extra = part("data.text.projection.projection", student=student, teacher=teacher)
    options = {name: f"batch.{entry}" for name, entry in GROUPED.items()}
    options |= {name: f"extra.{name}" for name in ("projection_ids", "projection_weights")}
    kd = term(
        "losses.cross_tokenizer.cross_tokenizer_loss",
        ("student.logits",),
        ("teacher.logits",),
        weight=0.5,
        kwargs={"loss": "projected", "temperature": 1.0},
        options=options,
        where="batch.group_valid",
    )
    config.terms = {**supervised(0.5), "kd": kd}
    config.scheme = part("schemes.cross_tokenizer.build")
    config.task = part("tasks.tokens.task", headline="bits_per_byte")


def tiny(config: ConfigDict) -> dict:
    """Returns what differs in a few steps: the teacher, and the base of adapters, teach as they are loaded here too."""
    loaded = dict(train=dict(steps=0))
    few: dict = dict(teacher=loaded, teachers=dict.fromkeys(config.teachers, loaded), train=dict(batch_size=8))
    if "choose" in config.scheme.kwargs:
        few["scheme"] = dict(kwargs=dict(rows=16, batch=8, beams=2))
    if config.scheme.name == "schemes.replay.build":
        few["scheme"] = dict(kwargs=dict(every=2, capacity=32, held_out=8, start=0.5))
    return few
