"""The trained parts that single methods bring along, as connectors; kd_jax.models.connectors says how they are called.

Each names the loss that it is published with; numbers that the papers leave open are those of the authors' code.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.models.adapters import LinenModel
from kd_jax.models.connectors import Shape, check_maps, dense, resize_map
from kd_jax.models.layers import conv, norm, torch_default, uniform_fan_in
from kd_jax.ranges import BelowOne, Count, Positive
from kd_jax.types import Array, Model


def vid_regressor(student: Shape, teacher: Shape, *, initial_variance: Positive[float] = 5.0) -> Model:
    """Returns (predicted mean of the teacher's value, raw scale of each channel [Ct]); variance = softplus(raw) + 1e-5.

    Mean: three dense layers without bias on the last axis, Ct wide, ReLU between. A map larger than the teacher's is
    pooled first; where the teacher's is larger, `variational_connector_loss` pools that. Ahn et al., "Variational
    Information Distillation for Knowledge Transfer", 2019, arXiv 1904.05835; sizes as RepDistiller.
    """
    raw = float(np.log(np.expm1(initial_variance - 1e-5)))
    if student.ndim != teacher.ndim or student.ndim not in (2, 4):
        raise ValueError(f"vid_regressor connects two maps or two vectors, got {student.shape} and {teacher.shape}")
    return LinenModel(VIDRegressor(teacher.shape[1:], raw))


def review_kd_fusion(*shapes: Shape, width: int | None = None) -> Model:
    """Fuses the student's maps, shallow to deep, into a tuple of maps in the shapes of the teacher's, which come next.

    From deep to shallow each map meets what the deeper one left, weighted by two attention maps. A vector [batch, C]
    counts as a 1 x 1 map. `width` of the shared maps: min(512, channels of the deepest student map) by default.
    Chen et al., "Distilling Knowledge via Knowledge Review", 2021, arXiv 2104.09044.
    """
    if len(shapes) < 2 or len(shapes) % 2 or any(s.ndim not in (2, 4) for s in shapes):
        raise ValueError(f"review_kd_fusion takes n maps of the student, then n of the teacher, got {shapes}")
    students, teachers = shapes[: len(shapes) // 2], shapes[len(shapes) // 2 :]
    width = width or min(512, students[-1].shape[-1])
    return LinenModel(ReviewFusion(tuple(t.shape[1:] for t in teachers), width))


def simkd_projector(student: Shape, teacher: Shape, *, factor: Count[int] = 2) -> Model:
    """Maps to the teacher's channels by 1 x 1, 3 x 3, 1 x 1 convolutions, each with BatchNorm and ReLU.

    The teacher's head classifies the mean of the result. A map larger than the teacher's is pooled first; where the
    teacher's is larger, the loss pools that (`pooled_hint_loss`), as the authors' code. Chen et al., "Knowledge
    Distillation with the Reused Teacher Classifier", 2022, arXiv 2203.14001.
    """
    check_maps("simkd_projector", student, teacher)
    return LinenModel(SimKDProjector(teacher.shape[1:], factor))


def mgd_generator(student: Shape, teacher: Shape, *, ratio: BelowOne[float] = 0.15, mask: str = "channel") -> Model:
    """Applies convolution 3 x 3, ReLU, convolution 3 x 3 to the student's map; training zeroes a share `ratio` of it.

    `mask`: "channel" for classification, "pixel" for dense prediction. Other channel counts and sizes are aligned
    first. Yang et al., "Masked Generative Distillation", 2022, arXiv 2205.01529.
    """
    check_maps("mgd_generator", student, teacher)
    if mask not in ("channel", "pixel"):
        raise ValueError(f"mask must be 'channel' or 'pixel', got {mask!r}")
    return LinenModel(MGDGenerator(teacher.shape[1:], ratio, mask))


def factor_paraphraser(teacher: Shape, target: Shape | None = None, *, rate: Positive[float] = 0.5) -> Model:
    """Reconstructs the teacher's map from `rate` times as many channels; the tap "factor" is the narrow map.

    Trained on the reconstruction alone, before the student. Kim et al., "Paraphrasing Complex Network: Network
    Compression via Factor Transfer", 2018, arXiv 1802.04977.
    """
    check_maps("factor_paraphraser", teacher, target or teacher)
    channels = teacher.shape[-1]
    return LinenModel(Paraphraser(channels, int(channels * rate)))


def factor_translator(student: Shape, factor: Shape) -> Model:
    """Maps to the shape of the paraphraser's factor by three 3 x 3 convolutions with BatchNorm.

    Kim et al., 2018, arXiv 1802.04977.
    """
    check_maps("factor_translator", student, factor)
    return LinenModel(Translator(factor.shape[1:]))


def srrl_connector(student: Shape, teacher: Shape, teacher_logits: Shape) -> Model:
    """Widens the student's map [batch, height, width, Cs] for the teacher's head, 1 x 1 convolution without bias,
    BatchNorm, ReLU, and takes its mean over space: [batch, Ct].

    Yang et al., "Knowledge Distillation via Softmax Regression Representation Learning", ICLR 2021, as the authors'
    code. An embedding [batch, Cs] counts as a map of one position, as in SimKD's repository.
    """
    if student.ndim not in (2, 4) or teacher.ndim != 2:
        raise ValueError(
            f"srrl_connector connects a map or an embedding to an embedding, got {student.shape} and {teacher.shape}"
        )
    return LinenModel(SRRLConnector(teacher.shape[-1]))


def embed_pair(student: Shape, teacher: Shape, *, dim: Count[int] = 128, normalize: bool = True) -> Model:
    """Flattens student and teacher, both inputs, and embeds each linearly in `dim` dimensions: a pair of embeddings.

    With `normalize` each has length 1: Tian et al., "Contrastive Representation Distillation", 2020, arXiv 1910.10699.
    Without: Peng et al., "Correlation Congruence for Knowledge Distillation", 2019, arXiv 1904.01802.
    """
    if student.ndim < 2 or teacher.ndim < 2:
        raise ValueError(f"embed_pair embeds [batch, ...], got {student.shape} and {teacher.shape}")
    return LinenModel(EmbedPair(dim, normalize))


def information_embedding(student: Shape, teacher: Shape) -> Model:
    """Returns (the student's embedding, mapped linearly to the teacher's width; what mutual information compares).

    The second is the embedding itself where the widths agree, else the mapped one. Miles, Rodriguez, Mikolajczyk,
    "Information Theoretic Representation Distillation", BMVC 2022, arXiv 2112.00459, as the authors' code.
    ValueError unless both are [batch, width].
    """
    if student.ndim != 2 or teacher.ndim != 2:
        raise ValueError(f"information_embedding connects two embeddings, got {student.shape} and {teacher.shape}")
    return LinenModel(InformationEmbedding(teacher.shape[-1]))


class InformationEmbedding(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        embedded = dense(x, self.features, name="dense")
        return embedded, x if x.shape[-1] == self.features else embedded


class SRRLConnector(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = nn.relu(norm(train, None, name="norm")(dense(x, self.features, bias=False, name="dense")))
        return x.mean((1, 2)) if x.ndim == 4 else x


class VIDRegressor(nn.Module):
    shape: tuple[int, ...]
    raw: float

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = _pooled_to(x, self.shape) if x.ndim == 4 else x
        channels = self.shape[-1]
        for i in range(3):
            x = dense(nn.relu(x) if i else x, channels, bias=False, name=f"dense{i}")
        return x, self.param("raw_scale", nn.initializers.constant(self.raw), (channels,))


class ReviewFusion(nn.Module):
    shapes: tuple[tuple[int, ...], ...]
    width: int

    @nn.compact
    def __call__(self, *maps: Array, train: bool) -> tuple[Array, ...]:
        kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        fused, left = [], None
        for i in reversed(range(len(self.shapes))):
            shape = self.shapes[i]
            x = maps[i] if maps[i].ndim == 4 else maps[i][:, None, None, :]
            x = conv(self.width, 1, dtype=None, kernel_init=kernel_init, name=f"conv{i}_in")(x)
            x = norm(train, None, name=f"norm{i}_in")(x)
            if left is not None:
                left = _nearest(left, x.shape[1:3])
                attention = nn.sigmoid(dense(jnp.concatenate([x, left], -1), 2, name=f"attention{i}"))
                x = x * attention[..., :1] + left * attention[..., 1:]
            left = x = _nearest(x, shape[:2] if len(shape) == 3 else (1, 1))
            y = conv(shape[-1], 3, dtype=None, kernel_init=kernel_init, name=f"conv{i}_out")(x)
            fused.append(norm(train, None, name=f"norm{i}_out")(y).reshape(-1, *shape))
        return tuple(reversed(fused))


class SimKDProjector(nn.Module):
    shape: tuple[int, ...]
    factor: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        channels = self.shape[-1]
        x = _pooled_to(x, self.shape)
        widths = (channels // self.factor, channels // self.factor, channels)
        for i, (features, size) in enumerate(zip(widths, (1, 3, 1), strict=True)):
            x = conv(features, size, dtype=None, kernel_init=torch_default, name=f"conv{i}")(x)
            x = nn.relu(norm(train, None, name=f"norm{i}")(x))
        return x


class MGDGenerator(nn.Module):
    shape: tuple[int, ...]
    ratio: float
    mask: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        channels = self.shape[-1]
        x = resize_map(x, self.shape[:2])
        x = dense(x, channels, name="align") if x.shape[-1] != channels else x
        if train:
            shape = (x.shape[0], 1, 1, channels) if self.mask == "channel" else (*x.shape[:3], 1)
            x = x * jax.random.bernoulli(self.make_rng("mask"), 1 - self.ratio, shape)
        return _conv3(_conv3(x, channels, "conv1", nn.relu), channels, "conv2")


class Paraphraser(nn.Module):
    channels: int
    factor: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, dict[str, Array]]:
        for i, features in enumerate((self.channels, self.factor, self.factor)):
            x = _conv3(x, features, f"encoder{i}", _leaky)
        factor = x
        for i, features in enumerate((self.factor, self.channels, self.channels)):
            x = _conv3(x, features, f"decoder{i}", _leaky, transposed=True)
        return x, {"factor": factor}


class Translator(nn.Module):
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = resize_map(x, self.shape[:2])
        for i, features in enumerate((x.shape[-1], self.shape[-1], self.shape[-1])):
            x = _leaky(norm(train, None, name=f"norm{i}")(_conv3(x, features, f"conv{i}")))
        return x


class EmbedPair(nn.Module):
    dim: int
    normalize: bool

    @nn.compact
    def __call__(self, student: Array, teacher: Array) -> tuple[Array, Array]:
        pair = []
        for name, x in (("student", student), ("teacher", teacher)):
            x = dense(x.reshape(x.shape[0], -1), self.dim, name=name)
            length = jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12))
            pair.append(x / length if self.normalize else x)
        return pair[0], pair[1]


def _leaky(x: Array) -> Array:
    return nn.leaky_relu(x, 0.1)


def _conv3(x: Array, features: int, name: str, activation=lambda x: x, transposed: bool = False) -> Array:
    """A 3 x 3 convolution of stride 1; a transposed one is the same but for its first weights.

    PyTorch takes the outputs of a transposed convolution for its fan in.
    """
    uniform = uniform_fan_in(9 * (features if transposed else x.shape[-1]))
    return activation(nn.Conv(features, (3, 3), padding=1, kernel_init=uniform, bias_init=uniform, name=name)(x))


def _pooled_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Pools a map to the height and width of `shape` where it is larger."""
    return resize_map(x, (min(x.shape[1], shape[0]), min(x.shape[2], shape[1])))


def _nearest(x: Array, size: tuple[int, int]) -> Array:
    """Row i of the result is row floor(i * height / new height), as in PyTorch; jax.image rounds half a pixel later."""
    for axis, n in zip((1, 2), size, strict=True):
        if x.shape[axis] != n:
            x = jnp.take(x, np.arange(n) * x.shape[axis] // n, axis=axis)
    return x
