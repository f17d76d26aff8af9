import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.core.paths import Path, calls_in, entry_paths, lookup, roles_read, taps_in, variables_of
from kd_jax.types import Outputs

CONTEXT = {
    "batch": {"label": jnp.array([0, 1]), "labelled": jnp.array([True, False])},
    "student": Outputs(jnp.array([[1.0, 2.0], [3.0, 4.0]]), {"stage1": jnp.ones((2, 3))}),
    "detector": Outputs({"boxes": jnp.ones((2, 5, 4)), "parts": (jnp.zeros(2), jnp.ones(2))}),
    "extra": {"queue": jnp.zeros((2, 2))},
}
PATHS = {
    "batch.image": Path("batch", "image"),
    "batch.teacher/logits": Path("batch", "teacher/logits"),
    "extra.replay.image": Path("extra", "replay", ("image",)),
    "stats.teacher.batch_stats.norm.mean": Path("stats", "teacher", ("batch_stats", "norm", "mean")),
    "memory": Path("memory"),
    "step": Path("step"),
    "student": Path("outputs", "student"),
    "student.logits@1": Path("logits", "student", at=1),
    "detector.logits.boxes": Path("logits", "detector", ("boxes",)),
    "student.features:stage2/act.0": Path("features", "student", tap="stage2/act.0"),
    "kd/connector.features:factor": Path("features", "kd/connector", tap="factor"),
    "student.logit": Path("unknown", "student", ("logit",)),
    "models.language.decoder:decoding": Path("unknown", "models", ("language", "decoder:decoding")),
}


@pytest.mark.parametrize("text", PATHS)
def test_a_path_and_its_text(text):
    assert Path.parse(text) == PATHS[text] and str(PATHS[text]) == text


def test_what_paths_say():
    assert Path.parse("kd/connector.logits").connected == "kd" and not Path.parse("student.logits").connected
    assert str(Path.parse("batch.image").within("half")) == "batch.half.image"
    assert str(Path.parse("extra.image").within("half")) == "extra.image"
    assert calls_in(PATHS) == {"student", "detector", "kd/connector", "models"}
    assert taps_in("student", PATHS) == ("stage2/act.0",)
    assert roles_read(("params.base.head", "batch.image", "params.base")) == ("base",)
    assert variables_of("teacher", PATHS) == ["stats.teacher.batch_stats.norm.mean"]
    assert variables_of("teach", PATHS) == []
    other = dataclasses.replace(Path.parse("student.features:stage1@2"), owner="peer")
    assert str(other) == "peer.features:stage1@2"


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("batch.label", (2,)),
        ("student.logits", (2, 2)),
        ("student.features:stage1", (2, 3)),
        ("extra.queue", (2, 2)),
        ("detector.logits.boxes", (2, 5, 4)),
        ("detector.logits.parts.1", (2,)),
        ("detector.logits.boxes@4", (2, 4)),
    ],
)
def test_lookup(path, shape):
    assert lookup(CONTEXT, path).shape == shape


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("studnet.logits", "Did you mean 'student'"),
        ("student.features:stag1", "Did you mean 'stage1'"),
        ("student.logit", "features:<tap>"),
        ("batch.labell", "'label'"),
        ("detector.logits.boxen", "Did you mean 'boxes'"),
        ("detector.logits.parts.2", "no '2' there"),
        ("extra.queues", "'queue'"),
    ],
)
def test_unknown_path_names_what_exists(path, message):
    with pytest.raises(ValueError, match=message):
        lookup(CONTEXT, path)


def test_a_part_along_axis_1():
    value = jnp.arange(24.0).reshape(2, 3, 4)
    context = {"peers": Outputs(value), "shapes": Outputs(jax.ShapeDtypeStruct((2, 3, 4), jnp.float32))}
    np.testing.assert_array_equal(lookup(context, "peers.logits@1"), value[:, 1])
    assert lookup(context, "shapes.logits@2").shape == (2, 4)
    assert entry_paths("a+b.logits@0") == ("a.logits", "b.logits@0")
    for path in ("peers.logits@3", "peers.logits@x"):
        with pytest.raises(ValueError, match="along axis 1"):
            lookup(context, path)
