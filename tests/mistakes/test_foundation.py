"""Encoders that do not fit the heads, queues that do not fit the data, views and features that there are not."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from mistakes import FEATURES, Mistake, check, config, each, run

import kd_jax
from kd_jax.config import part, term
from kd_jax.models.encoders import Encoder

PAIR = ("student.logits", "teacher.logits")
QUEUE = "losses.queues.queued_similarity_loss"
TOWARD = part("models.foundation_connectors.toward_teacher")


class Images(nn.Module):
    """A map [batch, 2, 3, width], its mean, and a classifier."""

    width: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, name="map")(x.reshape(len(x), 2, 3, -1))
        return nn.Dense(4, name="head")(nn.relu(nn.Dense(self.width, name="embedding")(x.mean((1, 2)))))


def encoder(width=8, tap="embedding"):
    return Encoder(kd_jax.LinenModel(Images(width)), tap)


def embedded(terms, scheme=None, student=None, teacher=None, **fields):
    """A run whose networks are encoders."""

    def do(folder):
        made = config(terms, task__name="tasks.embed.task", **fields)
        if scheme:
            made.scheme = part(*scheme[:1], **scheme[1])
        return run(folder, made, student=student or encoder(), teacher=teacher or encoder(16))

    return do


def queue(rows=32, width=16, **fields):
    memory = part("losses.queues.similarity_queue", rows=rows, width=width)
    return {"global": term(QUEUE, PAIR, options={"memory": "memory"}, memory=memory, connector=TOWARD) | fields}


def dense(options=True, target="teacher.features:map", **fields):
    read = {k: f"extra.phi.{k}" for k in ("mean", "matrix")} if options else {}
    loss = "losses.standardization.standardized_feature_loss"
    head = part("models.foundation_connectors.adaptor_head")
    return {"dense": term(loss, ("student.features:map",), (target,), options=read, connector=head) | fields}


def phi(path="teacher.features:map", **fields):
    return "schemes.agglomerative.build", {"standardize": {"phi": path}, **fields}


def centred(*views, teacher_views=2):
    names = tuple(f"_{view}" if view else "" for view in views)
    paths = tuple(f"student_head{n}.logits" for n in names), tuple(f"average_head{n}.logits" for n in names[:2])
    options = {"center": "extra.center"}
    fn = "losses.self_distillation.centred_views_loss"
    return {"views": term(fn, *paths, kwargs={"teacher_views": teacher_views}, options=options)}


def dino(terms, **kwargs):
    small = dict(prototypes=8, hidden=8, bottleneck=4)
    scheme = "schemes.dino.build", {"views": {"other": "batch.image"}, **small, **kwargs}
    return embedded(terms, scheme)


def constant_teacher(folder):
    class Constant(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, kernel_init=nn.initializers.zeros, name="map")(x.reshape(len(x), 2, 3, -1))
            return nn.Dense(4, name="head")(x.mean((1, 2)))

    teacher = Encoder(kd_jax.LinenModel(Constant()), "head")
    variables = teacher.init(jax.random.key(0), jnp.zeros((1, FEATURES)))
    made = config(dense(), task__name="tasks.embed.task")
    made.scheme = part("schemes.agglomerative.build", standardize={"phi": "teacher.features:map"})
    run(folder, made, student=encoder(), teacher=teacher, teacher_variables=variables)


ROWS = [
    Mistake(
        "a head of another width than the teacher's features",
        "must have the same shape, got student (16, 2, 3, 8) and teacher (16, 2, 3, 16)",
        embedded(dense(connector=part()), phi()),
    ),
    Mistake(
        "a map taught by a vector",
        "adaptor_head connects two maps, or values that differ in the last axis only, got student (16, 2, 3, 8), "
        "teacher (16, 16)",
        embedded(dense(target="teacher.logits"), phi("teacher.logits")),
    ),
    Mistake(
        "statistics of another tap than the one that is taught",
        "features (16, 2, 3, 16) need a mean (16,) and a matrix (16, 16), got (4,) and (4, 4)",
        embedded(dense(), phi("teacher.features:head")),
    ),
    Mistake(
        "a teacher's tap that there is not",
        "no tap 'maps'",
        embedded(dense(), phi("teacher.features:maps")),
    ),
    Mistake(
        "standardised features that no term reads",
        "standardize: no term reads 'extra.phi.mean'",
        embedded(dense(options=False, fn="losses.representation.agglomerative_feature_loss"), phi()),
    ),
    Mistake(
        "features of the student standardised",
        "standardize: 'student.features:map' is of no frozen network. There is: teacher",
        embedded(dense(), phi("student.features:map")),
    ),
    Mistake(
        "a teacher whose features are all the same",
        "standardize.phi: teacher.features:map: phi_standardization: the features … do not vary",
        constant_teacher,
        when="training",
    ),
    Mistake("nothing to standardise", "standardize is empty", embedded(dense(), (phi()[0], {"standardize": {}}))),
    Mistake("a queue smaller than a batch", "a queue of 8 rows is smaller than a batch of 16", embedded(queue(rows=8))),
    Mistake(
        "a queue as large as the data",
        "a queue of 96 rows is no smaller than the 96 training examples",
        embedded(queue(rows=96)),
    ),
    Mistake(
        "a queue of another width than the teacher's embeddings",
        "a queue (32, 8) takes rows of width 8, these are (16, 16)",
        embedded(queue(width=8)),
    ),
    Mistake(
        "a queue without its memory",
        "Path 'memory': no 'memory' in this step",
        embedded(queue(memory=part())),
    ),
    Mistake(
        "CRD's queue as large as the data",
        "a queue of 16384 rows is no smaller than the 96 training examples",
        lambda folder: run(folder, config(kd_jax.compose("crd", crd={"queue": 16384}))),
    ),
    Mistake(
        "an encoder of a tap that its network lacks", "no tap 'embed'", embedded(queue(), student=encoder(tap="embed"))
    ),
    Mistake(
        "a task of embeddings for a student of maps",
        "its output has shape (256, 2, 3, 1); an embedding is [batch, width]",
        embedded(
            {"map": term("losses.feature.feature_hint_loss", ("student.logits",), ("teacher.features:map",))},
            student=kd_jax.FunctionModel(lambda key, x: jnp.ones(()), lambda w, x: w * x.reshape(-1, 2, 3, 1)),
            teacher=encoder(1),
        ),
    ),
    Mistake(
        "a pair of embeddings of which one is not named",
        "entry='image' and pair='' come together, or neither does",
        embedded(queue(), task__kwargs={"entry": "image"}),
    ),
    Mistake(
        "DINO with one view",
        "DINO needs a further view",
        dino(centred("", "other"), views={}),
    ),
    Mistake(
        "a crop that no term reads",
        "No term reads 'student_head_small.logits'",
        dino(centred("", "other"), crops={"small": "batch.image"}),
    ),
    Mistake(
        "a view of which the data know nothing",
        "no 'othr' there. There is: image, index",
        dino(centred("", "other"), views={"other": "batch.othr"}),
    ),
    Mistake(
        "more views of the teacher than of the student",
        "expected the student's answers to two views or more",
        dino(centred("", "other", teacher_views=3)),
    ),
]


@each(ROWS)
def test_foundation(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)


def test_the_rows_are_of_runs_that_would_train(tmp_path):
    """The same runs without the mistake."""
    good = (embedded(dense(), phi()), embedded(queue()), dino(centred("", "other")))
    for number, do in enumerate(good):
        results = do(tmp_path / str(number))
        assert np.isfinite(results["models"]["student"]["last"]["test"]["rank"])
