"""What `benchmarks.losses` measures: every loss at inputs of a typical size."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.losses import (
    adaptation,
    adversarial,
    attention,
    composed,
    cross_layer,
    data_free,
    dense,
    ensemble,
    feature,
    graph,
    information,
    lifelong,
    online,
    queues,
    relation,
    representation,
    response,
    response_hard,
    self_distillation,
    self_supervised,
    specialists,
    standardization,
    task,
)

MODULES = (response, feature, relation, representation, attention, dense, ensemble, adversarial, task, composed)
MODULES += (adaptation, data_free, graph, lifelong, online, response_hard, self_distillation, self_supervised)
MODULES += (specialists, information, cross_layer, queues, standardization)
KINDS = ("_loss", "_penalty")


@dataclasses.dataclass(frozen=True)
class Input:
    """Normal numbers, or integers below `high`; `fixed` inputs keep their size where the others are halved."""

    shape: tuple[int, ...]
    high: int = 0
    fixed: bool = False

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        if self.high:
            return rng.integers(0, self.high, self.shape, np.int32)
        return np.asarray(rng.standard_normal(self.shape), np.float32)

    def half(self, axis: int) -> Input:
        shape = list(self.shape)
        shape[axis] //= 2
        return self if self.fixed else dataclasses.replace(self, shape=tuple(shape))


Shape = tuple[int, ...] | Input


@dataclasses.dataclass(frozen=True)
class Case:
    """loss(*student, *other), differentiated by `student`; `call` stands for a loss that takes keywords.

    `axis` is halved to see the growth; `expected` are the exponents of time and memory.
    """

    student: tuple[Shape, ...]
    other: tuple[Shape, ...] = ()
    call: Callable[..., jax.Array] | None = None
    axis: int | None = None
    expected: tuple[float, float] = (1, 1)

    def inputs(self, half: bool = False) -> list[list[Input]]:
        sides = [[x if isinstance(x, Input) else Input(x) for x in side] for side in (self.student, self.other)]
        return [[x.half(self.axis) for x in side] for side in sides] if half else sides


def losses() -> dict[str, Callable[..., jax.Array]]:
    """Returns all losses by name."""
    return {n: fn for module in MODULES for n, fn in vars(module).items() if n.endswith(KINDS) and n[0] != "_"}


def _by_name(loss: Callable[..., jax.Array], *names: str) -> Callable[..., jax.Array]:
    """The loss with its last arguments passed as the keywords `names`."""
    number = len(names)
    return lambda *x: loss(*x[:-number], **dict(zip(names, x[-number:], strict=True)))


def _crd_memory(negatives, s, t, student_bank, teacher_bank, index):
    memory = {"student": student_bank, "teacher": teacher_bank, "student_constant": 0.0, "teacher_constant": 0.0}
    memory["classes"] = composed.class_tables(student_bank.shape[0])
    return composed.contrastive_memory_loss(s, t, memory=memory, index=index, step=0, negatives=negatives)


def _queued(s, t, queue):
    return queues.queued_similarity_loss(s, t, memory={"queue": queue})


def _crd_queue(negatives, s, t, student, teacher, labels, of_rows):
    memory = {"student": student, "teacher": teacher, "label": of_rows}
    memory |= {"student_constant": jnp.float32(0), "teacher_constant": jnp.float32(0)}
    return queues.contrastive_queue_loss(s, t, memory=memory, labels=labels, step=0, negatives=negatives)


def _standardized(s, t, mean, matrix):
    return standardization.standardized_feature_loss(s, t, mean=mean, matrix=matrix)


def _centred(*views_and_center):
    *views, center = views_and_center
    return self_distillation.centred_views_loss(*views, center=center)


def _cat_kd(s, s_kernel, t, t_kernel):
    return composed.class_attention_transfer_loss(s, {"kernel": s_kernel}, t, {"kernel": t_kernel})


def _overhaul_norm(s, t, scale, bias):
    return composed.overhaul_norm_loss(s, t, norm={"scale": scale, "bias": bias})


def _srrl(s, t, z, kernel, bias):
    return composed.teacher_head_loss(s, t, z, head={"kernel": kernel, "bias": bias})


def _vid(mean, raw, t):
    return feature.variational_information_loss(mean, t, raw)


def _bce(s, t):
    return task.binary_cross_entropy_loss(s, jax.nn.sigmoid(t))


def _ctc(z, labels):
    return task.ctc_loss(z, jnp.zeros(z.shape[:2]), labels + 1, jnp.zeros(labels.shape))


def _penalty(kernel, at):
    return adversarial.gradient_penalty(lambda x: jnp.tanh(x @ kernel), at)


def _rivals(z, labels, rivals):
    return lifelong.rival_cross_entropy_loss(z, labels, rivals > 0)


def _grouped(s, t, groups):
    return lifelong.grouped_kd_loss(s, t, groups > 0)


def _kdcl_general(*peers_and_raw):
    *peers, raw = peers_and_raw
    return online.kdcl_general_loss(*peers, shares=jax.nn.softmax(raw))


def _group_distillation(s, attention, t):
    return online.group_distillation_loss(s, jax.nn.softmax(attention), t)


def table(small: bool = False) -> dict[str, Case]:
    """Returns every loss at a typical size: logits [512, 1000], embeddings [512, 512], maps [64, 16, 16, 64]."""
    n, classes, width = (8, 10, 16) if small else (512, 1000, 512)
    b, size, channels = (4, 8, 4) if small else (64, 16, 64)
    length, heads, rows, negatives = (8, 2, 64, 16) if small else (512, 4, 50_000, 4096)
    z, e, m, narrow = (n, classes), (n, width), (b, size, size, channels), (n, width // 4)
    later = (b, size // 2, size // 2, channels)
    scores, hidden, values = (8, heads, length, length), (8, length, 64 * heads), (8, heads, length, 64)
    labels, top = Input((n,), classes), (n, classes // 10)
    stages = (*((b, 32 // f, 32 // f, 16 * f) for f in (1, 2, 4)), (b, 64))
    layers = (m, later, (b, width), (b, classes))
    anchors, bank, index = ((b, 128), (b, 128)), Input((rows, 128), fixed=True), Input((b,), rows)
    crd = _by_name(representation.contrastive_representation_loss, "student_bank", "teacher_bank", "index", "negatives")
    split = functools.partial(attention.self_relation_loss, relation_heads=heads)
    images, peers, edges = (b, 2 * size, 2 * size, 3), (n, 4, classes), Input((8 * n,), n)
    predictions, some = Input((8 * n, classes), fixed=True), max(classes // 10, 2)
    domains = tuple(tuple(range(first, first + some)) for first in (0, some))

    def of(module: ModuleType, *case: Any, **fields: Any) -> dict[str, Case]:
        return {name: Case(*case, **fields) for name in losses() if hasattr(module, name)}

    pairs = {"axis": 0, "expected": (2, 2)}
    channel_pairs = {"axis": -1, "expected": (2, 2)}
    cases = of(response, (z,), (z,)) | of(feature, (m,), (m,)) | of(dense, (m,), (m,)) | of(ensemble, (z,), (z, z, z))
    cases |= of(relation, (e,), (e,), **pairs) | of(attention, (hidden,), (hidden,)) | of(adversarial, (z,), (z,))
    cases |= {name: Case((z,)) for name in losses() if name.endswith("fool_loss")}
    for name in ("dkd", "nkd", "wsld"):
        cases |= {f"{name}_loss": Case((z,), (z, labels)), f"{name}_transfer_loss": Case((z,), (z, labels))}
    return cases | {
        "dist_loss": Case((z,), (z,), axis=0),
        "multi_level_logit_loss": Case((z,), (z,), axis=0, expected=(1.3, 2)),  # classes are compared too
        "topk_kd_loss": Case((z,), (top, Input(top, classes))),
        "standardized_kd_loss": Case((z,), (z,)),
        "curriculum_kd_loss": Case((z, ()), (z,)),
        "several_temperatures_kd_loss": Case((z,), (z,)),
        "confidence_weighted_loss": Case(
            (z,), (z, z, z, labels), _by_name(ensemble.confidence_weighted_loss, "labels")
        ),
        "cross_entropy_loss": Case((z,), (labels,)),
        "binary_cross_entropy_loss": Case((z,), (z,), _bce),
        "mean_squared_loss": Case((m,), (m,)),
        "ctc_loss": Case(((8, length, 32),), (Input((8, length // 8), 31),), _ctc),
        "neuron_selectivity_loss": Case((m,), (m,), **channel_pairs),
        "inter_channel_loss": Case((m,), (m,), **channel_pairs),
        "fsp_loss": Case((m, later), (m, later), **channel_pairs),
        "variational_information_loss": Case((m, (channels,)), (m,), _vid),
        "variational_connector_loss": Case((m, (channels,)), (m,)),
        "overhaul_loss": Case((m,), (m, (channels,))),
        "overhaul_batch_loss": Case((m,), (m,)),
        "overhaul_norm_loss": Case((m,), (m, (channels,), (channels,)), _overhaul_norm),
        "factor_attention_loss": Case((m,), (m,)),
        "pooled_hint_loss": Case((m,), (m,)),
        "image_prior_loss": Case((m,)),
        "softmax_regression_loss": Case((z,), (z,)),
        "teacher_head_loss": Case((e,), (e, z, (width, classes), (classes,)), _srrl),
        "class_attention_transfer_loss": Case((later, (channels, classes)), (later, (channels, classes)), _cat_kd),
        "review_kd_loss": Case(stages, stages),
        "angle_relation_loss": Case((narrow,), (narrow,), axis=0, expected=(3, 2)),
        "relation_loss": Case((narrow,), (narrow,), axis=0, expected=(3, 2)),
        "instance_relation_graph_loss": Case(layers, layers, **pairs),
        "correlation_information_loss": Case((e,), (e,)),
        "mutual_information_loss": Case((e,), (e,), **pairs),
        "information_distillation_loss": Case((e, e), (e,), axis=0, expected=(1.3, 2)),  # of three inputs, one in pairs
        "semantic_calibration_loss": Case(((b, 2, 2), m, later, m, later), (m, later)),
        "info_nce_loss": Case((e,), (e,), **pairs),
        "contrastive_representation_loss": Case(anchors, (bank, bank, index, Input((b, negatives), rows)), crd, 0),
        "contrastive_memory_loss": Case(anchors, (bank, bank, index), functools.partial(_crd_memory, negatives), 0),
        "euclidean_embedding_loss": Case((e,), (e,)),
        "unit_feature_loss": Case((e,), (e,)),
        "agglomerative_feature_loss": Case((m,), (m,)),
        "queue_similarity_loss": Case((e,), (e, Input((4 * n, width), fixed=True))),
        "token_affinity_loss": Case((hidden,), (hidden,), axis=1, expected=(2, 2)),
        "queued_similarity_loss": Case((e,), (e, Input((4 * n, width), fixed=True)), _queued),
        "contrastive_queue_loss": Case(
            anchors,
            (bank, bank, Input((b,), classes), Input((rows,), classes, fixed=True)),
            functools.partial(_crd_queue, negatives),
            0,
        ),
        "standardized_feature_loss": Case((m,), (m, (channels,), (channels, channels)), _standardized),
        "centred_views_loss": Case((z, z, z, z), (z, z, (classes,)), _centred),
        "similarity_transfer_loss": Case(((b, 4, width),), ((b, 4, width),), **pairs),
        "attention_score_loss": Case((scores,), (scores,)),
        "attention_relation_loss": Case((scores,), (scores,)),
        "value_relation_loss": Case((values,), (values,), axis=2, expected=(2, 2)),
        "self_relation_loss": Case((hidden,), (hidden,), split, axis=1, expected=(2, 2)),
        "patient_loss": Case(((n, 6, width),), ((n, 6, width),)),
        "localization_loss": Case(((n, 4, 17),), ((n, 4, 17),)),
        "top_classes_loss": Case((z,), (z,)),
        "gradient_penalty": Case(((width, width),), (e,), _penalty),
        "information_loss": Case((z,)),
        "disagreement_loss": Case((z,), (z,)),
        "one_hot_loss": Case((z,)),
        "activation_loss": Case((m,)),
        "information_entropy_loss": Case((z,)),
        "batch_norm_statistics_loss": Case((m,), ((channels,), (channels,))),
        "image_variation_loss": Case((images,)),
        "image_norm_loss": Case((images,)),
        "local_structure_loss": Case(
            (e,), (e, edges, edges), _by_name(graph.local_structure_loss, "senders", "receivers")
        ),
        "rival_cross_entropy_loss": Case((z,), (labels, Input((classes, classes), 2)), _rivals),
        "grouped_kd_loss": Case((z,), (z, Input((4, classes), 2)), _grouped),
        "peers_cross_entropy_loss": Case((peers,), (labels,)),
        "mutual_kl_loss": Case((peers,), (peers,), axis=1, expected=(2, 2)),
        "peers_kd_loss": Case((peers,), (z,)),
        "kdcl_naive_loss": Case((peers,), (peers, labels), _by_name(online.kdcl_naive_loss, "labels")),
        "kdcl_linear_loss": Case((peers,), (peers, labels), _by_name(online.kdcl_linear_loss, "labels")),
        "kdcl_min_logit_loss": Case((peers,), (peers, labels), _by_name(online.kdcl_min_logit_loss, "labels")),
        "kdcl_general_loss": Case((peers,), (peers, (4,)), _kdcl_general),
        "group_distillation_loss": Case((peers, (n, 4, 4)), (peers,), _group_distillation),
        "hard_label_loss": Case((z,), (z,)),
        "consistency_loss": Case((z,), (z,)),
        "progressive_loss": Case(
            (z,),
            (labels, predictions, Input((n,), 8 * n)),
            _by_name(self_distillation.progressive_loss, "predictions", "index"),
        ),
        "virtual_teacher_loss": Case((z,), (labels,)),
        "view_matching_loss": Case(((n, 4, width),), **pairs),
        "transformed_kd_loss": Case((peers,), (peers, labels)),
        "specialists_loss": Case((z,), (z, z, z), functools.partial(specialists.specialists_loss, classes=domains)),
        "confidence_transfer_loss": Case((z,), (z, z, z, labels)),
    }
