"""Settings that could not act, and results that nobody would notice are not what was asked for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_toy
from flax import nnx
from mistakes import CLASSES, FEATURES, MLP, Mistake, check, config, data, each, points, run, wrong

import kd_jax
from kd_jax.config import compose, part, role, supervised, teacher_fields, term
from kd_jax.models.language.decoder_families import gemma2
from kd_jax.schemes.continuations import prompts_of


class Dropping(nn.Module):
    """Its call is told that it trains by a word of its own."""

    @nn.compact
    def __call__(self, x, learning=False):
        x = nn.Dropout(0.5, deterministic=not learning)(nn.relu(nn.Dense(8)(x)))
        return nn.Dense(CLASSES)(x)


class Stored(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(nn.BatchNorm(use_running_average=True)(nn.Dense(8)(x)))


class NnxDropping(nnx.Module):
    def __init__(self, rngs):
        self.first, self.head = nnx.Linear(FEATURES, 8, rngs=rngs), nnx.Linear(8, CLASSES, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, learning=False):
        return self.head(self.dropout(self.first(x), deterministic=not learning))


def images(n=64):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (n, 8, 8, 1)).astype(np.uint8), np.arange(n) % CLASSES
    return kd_jax.from_arrays(train=(x, y), test=(x, y))


def mixed(preset):
    return lambda folder: run(folder, config(preset, train__augment=({"name": "mixup"},)), data=images())


def text(folder, terms, **networks):
    made = config({**supervised(), **terms})
    for part_of in (made.student, made.teacher):
        part_of.inputs = ("batch.tokens", "batch.segments")
    nets = {"student": gemma2(token_toy.VOCABULARY, 8, 1, 2), "teacher": gemma2(token_toy.VOCABULARY, 8, 1, 2)}
    return run(folder, made, data=token_toy.splits(), **{**nets, **networks})


def fused(**kwargs):
    sides = [(f"{side}.features:final", f"params.{side}.embed") for side in ("student", "teacher")]
    return {"kd": term("losses.vocabulary.fused_kd_loss", *sides, kwargs=kwargs, where="batch.labelled")}


def handed(variables, **fields):
    return lambda folder: run(folder, config(**fields), teacher_variables=variables)


def weights(width=16, classes=CLASSES):
    return MLP(width, classes).init(jax.random.key(0), jnp.zeros((1, FEATURES)))["params"], {}


PARAPHRASER = {
    "own": term(
        "losses.feature.feature_hint_loss",
        ("teacher.features:embedding",),
        ("teacher.features:embedding",),
        connector=part("models.connectors.linear"),
    )
}
CONNECTED_TO_NOTHING = {
    "own": term(
        "losses.feature.feature_hint_loss",
        ("student.features:embedding",),
        connector=part("models.connectors.auto"),
    )
}
DATA = [
    Mistake(
        "labels are to be hidden, more than the given arrays have",
        "labels=400 needs 100 labels of each of 4 classes, but class 0 has 24",
        wrong(data__labels=400),
    ),
    Mistake(
        "a share to hold out of data that have a validation split",
        "data.validation=0.1 holds examples out of train, and arrays has a validation split of its own, of 24 examples",
        wrong(data__validation=0.1),
    ),
    Mistake(
        "more training examples than there are",
        "data.limit=5000: there are no more than 96 training examples",
        wrong(data__limit=5000),
        goes_on=True,
    ),
    Mistake(
        "a teacher on other data than those given",
        "config.teacher.data asks for name='mnist', and data= is what every network reads",
        wrong(teacher__data__name="mnist"),
    ),
    Mistake(
        "data given beside the name of others",
        "data: 'arrays', given as an object, takes the place of config.data's name='cifar10'",
        wrong(data__name="cifar10"),
        goes_on=True,
    ),
    Mistake(
        "packing of pairs, which are one a row",
        "data.packing='padded' has no effect on pairs: it is of text",
        lambda folder: run(folder, config(data__name="pairs", data__packing="padded"), data=None),
    ),
    Mistake(
        "a number of tokens for a tokenizer of characters",
        "data.vocabulary=512 is the number of tokens of 'bpe', and data.tokenizer is 'character'",
        lambda folder: run(folder, config(data__name="text", data__vocabulary=512), data=None),
    ),
    Mistake(
        "a seed of labels of which all are kept",
        "data.label_seed=3 chooses which labels are kept or made wrong, and data.labels and data.label_noise are 0",
        wrong(data__label_seed=3),
    ),
    Mistake(
        "a share of labelled examples where all have a label",
        "config.train.labelled_share=0.25 has no effect: every training example of arrays has a label",
        wrong(train__labelled_share=0.25),
    ),
    Mistake(
        "processes for data in memory",
        "config.workers=4 processes would decode streamed data, and arrays is in memory",
        wrong(workers=4),
    ),
]
OPTIMIZER = [
    Mistake(
        "trained parameters that are not there",
        "optimizer.trained='student/haed/' matches no parameter. Did you mean 'student/head/",
        wrong(train__optimizer__trained="student/haed/"),
    ),
    Mistake(
        "weight decay of parameters that are not there",
        "optimizer.decay_pattern='weights$' matches no parameter",
        wrong(train__optimizer__decay_pattern="weights$"),
    ),
    Mistake(
        "boundaries of a cosine",
        "config.train.optimizer.boundaries=(0.5,) is of the schedule 'step', and config.train.optimizer.schedule is",
        wrong(train__optimizer__boundaries=(0.5,)),
    ),
    Mistake(
        "two weight decays",
        "config.train.optimizer.weight_decay=0.01 and config.train.optimizer.kwargs.weight_decay=0.1 are one number",
        wrong(
            train__optimizer__name="adamw",
            train__optimizer__weight_decay=0.01,
            train__optimizer__kwargs={"weight_decay": 0.1},
        ),
    ),
    Mistake(
        "an optimizer of a group that nobody trains",
        "config.optimizers.studnet: the scheme trains no such group. Did you mean 'student'?",
        lambda folder: run(folder, config(optimizers={"studnet": config().train.optimizer})),
    ),
]
NETWORKS = [
    Mistake(
        "dropout that is told by a word that nobody gives",
        "The student has dropout (Dropout_0) that stays off in training",
        lambda folder: run(folder, student=Dropping()),
    ),
    Mistake(
        "the same in an NNX module",
        "The student has dropout (dropout) that stays off in training",
        lambda folder: run(folder, student=kd_jax.NNXModel(lambda rngs: NnxDropping(rngs))),
    ),
    Mistake(
        "a BatchNorm that is never told that it trains",
        "student: every BatchNorm (BatchNorm_0, ...) uses its stored averages in training too",
        lambda folder: run(folder, student=Stored()),
        goes_on=True,
    ),
    Mistake(
        "a network that the scheme does not call",
        "config.roles.peer: the scheme schemes.offline.build calls no such network, and no term reads it",
        lambda folder: run(folder, config(roles={"peer": role("models.mlp.mlp")})),
    ),
    Mistake(
        "a second teacher that no term reads",
        "config.teachers.second: the scheme schemes.offline.build calls no such network, and no term reads it",
        lambda folder: run(
            folder, config(teachers={"second": teacher_fields("models.mlp.mlp", train=config().teacher.train)})
        ),
    ),
    Mistake(
        "a checkpoint of a teacher that has no model",
        "config.teacher.checkpoint is set, and there is no teacher: config.teacher.model.name is ''",
        lambda folder: run(folder, config(teacher__model__name="", teacher__checkpoint="there"), teacher=None),
    ),
    Mistake(
        "a checkpoint beside the teacher's parameters",
        "teacher_variables and config.teacher.checkpoint both are the teacher's parameters: give one",
        handed(weights(), teacher__checkpoint="there"),
    ),
    Mistake(
        "parameters of another teacher",
        "teacher_variables are not those of the teacher (MLP): of other shapes: embedding/bias is (32,), not (16,)",
        handed(weights(32)),
    ),
    Mistake(
        "the best step of a teacher that is not trained",
        "config.teacher.use='best' is of a teacher that this run trains, and teacher_variables is given",
        handed(weights(), teacher__use="best"),
    ),
    Mistake(
        "a cache that lies nowhere",
        "config.teacher.cache.k=3 has no effect: config.teacher.cache.directory is ''",
        wrong(teacher__cache__k=3),
    ),
    Mistake(
        "modules to compute again, and no policy",
        "config.student.remat.modules='layer' has no effect: config.student.remat.policy is ''",
        wrong(student__remat__modules="layer"),
    ),
    Mistake(
        "arguments of a function that is not named",
        "config.extra.kwargs={'seed': 1} have no effect: config.extra.name is ''",
        wrong(extra__kwargs={"seed": 1}),
        goes_on=True,
    ),
    Mistake(
        "a way to run members of one run",
        "config.members='vmap' has no effect: it is of sweeps, and this is one run",
        wrong(members="vmap"),
    ),
    Mistake(
        "a trace of steps that are not made",
        "config.profile=(500, 510): no training is longer than 2 steps",
        wrong(profile=(500, 510)),
    ),
    Mistake(
        "a teacher that knows nothing",
        "teacher: at chance level: accuracy…and the frequencies of the validation split's labels alone give 25.0%",
        handed(jax.tree.map(jnp.zeros_like, weights())),
        when="training",
        goes_on=True,
    ),
]
LOSSES = [
    *(
        Mistake(
            f"{preset} on mixed images",
            "Term 'kd' reads 'batch.label', the label of one image, and config.train.augment mixes two (mixup, cutmix)",
            mixed(preset),
        )
        for preset in ("dkd", "nkd", "wsld")
    ),
    Mistake(
        "a fused loss that does not know of the head's soft cap",
        "Term 'kd': between 'student.features:final' and the logits the network has a soft cap, and the loss is not "
        "told of it: kwargs student_softcap=30.0",
        lambda folder: text(folder, fused()),
    ),
    Mistake(
        "another soft cap than the network's",
        "the network has a soft cap of 30.0, and teacher_softcap is 50.0",
        lambda folder: text(folder, fused(student_softcap=30.0, teacher_softcap=50.0)),
    ),
    Mistake(
        "a soft cap that the network has not",
        "the network has no soft cap, and student_softcap is 30.0",
        lambda folder: text(
            folder,
            fused(student_softcap=30.0, teacher_softcap=30.0),
            student=gemma2(token_toy.VOCABULARY, 8, 1, 2, logit_softcap=0.0),
        ),
    ),
    Mistake(
        "a connector that learns for nobody",
        "Term 'own' trains its connector and nothing else: it reads teacher.features:embedding",
        lambda folder: run(folder, config({**compose("kd"), **PARAPHRASER})),
    ),
    Mistake(
        "a connector to nothing",
        "Term 'own': its connector gets the shapes of inputs and targets (student.features:embedding): auto() missing",
        lambda folder: run(folder, config({**compose("kd"), **CONNECTED_TO_NOTHING})),
    ),
    Mistake(
        "a view of the pictures that nobody reads",
        "config.train.views.other: no network or term reads batch.other",
        lambda folder: run(folder, config(train__views={"other": ("flip",)}), data=images()),
    ),
    Mistake(
        "one long prompt among short ones",
        "letters/train: prompts get 2 tokens of a row and answers 11, so that the fewest are lost: of 1 of 48 prompts "
        "(up to 10 tokens) the end is read, and 0 of the data's answers (up to 11) are longer; data.length=20 has room",
        lambda folder: prompts_of(one_long_prompt(), 0),
        goes_on=True,
    ),
]


def one_long_prompt():
    source = token_toy.source(48, prompt=1, padded=False)
    labels = source.labels.copy()
    labels[0, :9] = -1
    return source.with_labels(labels)


@each([*DATA, *OPTIMIZER, *NETWORKS, *LOSSES])
def test_ignored(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)


@pytest.mark.parametrize("flag", ["inference", "deterministic", "is_train", "eval_mode"])
def test_flags_of_the_field_reach_the_dropout(flag, tmp_path):
    on = flag == "is_train"
    body = f"    def __call__(self, x, {flag}={not on}):\n        off = {'not ' * on}{flag}\n"
    body += "        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=off)(x))"
    names = {"nn": nn, "CLASSES": CLASSES}
    exec(f"class Net(nn.Module):\n    @nn.compact\n{body}", names)
    model, x = kd_jax.LinenModel(names["Net"]()), jnp.asarray(points(8)[0])
    params, stats = model.init(jax.random.key(0), x)
    outputs = [model.apply(params, stats, x, train=train, key=jax.random.key(1))[0].logits for train in (True, False)]
    assert not np.allclose(*outputs)


def test_labels_and_noise_act_on_given_arrays(tmp_path):
    made = config(data__labels=20, data__label_noise=0.5, data__limit=80)
    results = run(tmp_path, made)
    assert results["config"]["data"]["labels"] == 20 and results["config"]["teacher"]["data"]["labels"] == 0
    clean = run(tmp_path / "clean", config())
    assert clean["models"]["student"]["last"]["test"] != results["models"]["student"]["last"]["test"]


def test_validation_is_held_out_of_given_arrays(tmp_path):
    results = run(tmp_path, config(data__validation=0.25), data=data(validation=0.0))
    assert "validation" in results["models"]["student"]["last"]
