"""What each network is shown of a picture: numbers and sizes of its own, raw arrays, and what is said of it."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mistakes import MLP, config

import kd_jax
from kd_jax.core.prepare import preparation_of
from kd_jax.core.role_preparation import role_preparation
from kd_jax.data.arrays import digits
from kd_jax.models.adapters import LinenModel

MODEL = LinenModel(MLP(4, classes=10))
DATA = digits(0.2)._replace(validation=digits(0.2).test)


def prepared_for(model=MODEL, source=DATA.train, inputs=("batch.image",), **fields):
    return role_preparation("teacher", fields, model, source, inputs)


def batch(count=4):
    return {k: jnp.asarray(v) for k, v in DATA.train.batch(count).items()}


def shown(prepared, *ops, train=True):
    prepare = preparation_of({"augment": ops, "views": {}}, DATA.train, None, (prepared,))
    return prepare(batch(), jax.random.key(0), train)


class Grey(nn.Module):
    """A network that says how its pictures are prepared."""

    preparation = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "size": 16, "crop": 0.8, "class_names": ()}

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(x.reshape(len(x), -1) / 255)


def test_the_default_is_what_everybody_sees():
    assert (
        prepared_for().entries == () and prepared_for().text() == "(x/255 - mean)/std, 8 x 8; mean 0.3053, std 0.3759"
    )
    assert prepared_for(mean=DATA.train.mean, std=DATA.train.std).entries == ()
    assert prepared_for(size=8).entries == ()


def test_raw_arrays_are_those_of_the_data_bit_for_bit():
    stored = DATA.train.images[:4]
    raw = shown(prepared_for(like="raw"), train=False)["teacher:image"]
    assert raw.dtype == jnp.uint8 and np.array_equal(raw, stored)
    flipped = shown(prepared_for(like="raw"), "flip")
    as_floats = np.asarray(flipped["image"]) * 0.3759 + 0.3053
    np.testing.assert_allclose(flipped["teacher:image"] / 255, as_floats, atol=1e-4)
    cut = shown(
        prepared_for(like="raw"), "cutout"
    )  # cutout knows normalised pictures alone: what it made is turned back
    np.testing.assert_allclose(cut["teacher:image"] / 255, np.asarray(cut["image"]) * 0.3759 + 0.3053, atol=1e-4)


def test_numbers_and_sizes():
    x = DATA.train.images[:4].astype(np.float32)
    got = shown(prepared_for(mean=0.5, std=(0.25,)), train=False)["teacher:image"]
    np.testing.assert_allclose(got, (x / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-5)
    got = shown(prepared_for(scale=127.5, mean=1.0), train=False)["teacher:image"]
    np.testing.assert_allclose(got, x / 127.5 - 1, rtol=1e-5, atol=1e-5)
    large = shown(prepared_for(size=(16, 24)), train=False)["teacher:image"]
    assert large.shape == (4, 16, 24, 1)
    small = shown(prepared_for(scale=1, size=4), train=False)["teacher:image"]
    assert small.shape == (4, 4, 4, 1) and abs(float(small.mean()) - x.mean()) < 4
    middle = shown(prepared_for(scale=1, size=4, crop=0.5), train=False)["teacher:image"]
    np.testing.assert_allclose(middle, x[:, 2:6, 2:6], rtol=1e-6)


def test_resizing_is_that_of_torch():
    torch = pytest.importorskip("torch")
    x = DATA.train.images[:4]
    for size in (5, 16):
        got = shown(prepared_for(scale=1, size=size), train=False)["teacher:image"]
        there = torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2)
        wanted = torch.nn.functional.interpolate(there, (size, size), mode="bilinear", antialias=True)
        np.testing.assert_allclose(got, wanted.permute(0, 2, 3, 1).numpy(), atol=1e-2)


def test_a_network_says_its_own_preparation():
    prepared = prepared_for(LinenModel(Grey()))
    assert prepared.text() == (
        "(x/255 - mean)/std, 16 x 16 cut out of 20 x 20, one channel as 3; mean 0.5, 0.5, 0.5, std 0.25, 0.25, 0.25"
    )
    assert shown(prepared)["teacher:image"].shape == (4, 16, 16, 3)
    assert prepared_for(LinenModel(Grey()), size=8, crop=1.0).seen_shape() == (8, 8, 3)
    assert prepared_for(LinenModel(Grey()), like="data").entries == ()


def variables(network=None, size=8):
    return (network or MLP(16, classes=10)).init(jax.random.key(1), jnp.zeros((1, size, size, 1)))


def run(folder, made=None, teacher=None, handed=None, **more):
    made = made or config()
    made.eval_batch_size = 64
    network = teacher or MLP(16, classes=10)
    options = dict(student=MLP(classes=10), teacher=network, data=DATA, **more)
    return kd_jax.run(made, folder, teacher_variables=handed or variables(), **options)


def test_lines_results_and_the_report_say_what_is_seen(tmp_path, capsys):
    made = config(report=True, examples=2)
    results = run(tmp_path, made)
    printed = capsys.readouterr().out
    assert "student sees: (x/255 - mean)/std, 8 x 8; mean 0.3053, std 0.3759" in printed
    assert "teacher sees: the raw arrays, uint8, 0..255, 8 x 8 (it was handed over; preparation.like='data'" in printed
    of_teacher, of_student = (results["models"][name]["preparation"] for name in ("teacher", "student"))
    assert of_teacher["scale"] is None and of_teacher["sees"].startswith("the raw arrays, uint8")
    assert (of_student["scale"], of_student["mean"], of_student["size"]) == (255.0, [0.3053], [8, 8])
    page = (tmp_path / "report.html").read_text()
    assert "What each network sees" in page and "the raw arrays, uint8" in page
    assert json.loads((tmp_path / "results.json").read_text())["models"]["teacher"]["preparation"] == of_teacher


def test_what_it_sees_is_what_it_answers(tmp_path):
    """Raw by default; as the data say, or with numbers that say the same, it is another teacher."""
    agreement = {}
    for name, fields in {"raw": {}, "data": {"like": "data"}, "numbers": {"mean": 0.3053, "std": 0.3759}}.items():
        made = config(teacher__preparation=fields)
        agreement[name] = run(tmp_path / name, made)["models"]["teacher"]["last"]["test"]["nll"]
    assert agreement["data"] == pytest.approx(agreement["numbers"], rel=1e-5)
    assert abs(agreement["raw"] - agreement["data"]) > 0.1
    with pytest.raises(ValueError, match="preparation"):
        run(tmp_path / "raw", config(teacher__preparation={"like": "data"}))


def test_a_teacher_at_another_size_is_cached_alike(tmp_path):
    handed = variables(size=12)
    scores = []
    for directory in ("", "auto"):
        made = config(teacher__preparation={"size": 12, "like": "data"}, teacher__cache__directory=directory)
        made.train.augment = ("flip",)
        models = run(tmp_path / (directory or "none"), made, handed=handed)["models"]
        scores.append((models["student"]["last"]["test"]["nll"], models["teacher"]["last"]["test"]["nll"]))
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_a_trained_teacher_and_a_student_have_their_own(tmp_path):
    made = config(teacher__preparation={"size": 12}, student__preparation={"scale": 255}, baseline=True)
    made.eval_batch_size = 64
    results = kd_jax.run(made, tmp_path, student=MLP(classes=10), teacher=MLP(16, classes=10), data=DATA)
    assert [results["models"][n]["preparation"]["size"] for n in ("teacher", "student")] == [[12, 12], [8, 8]]
    assert results["models"]["baseline"]["preparation"]["sees"] == "x/255, 8 x 8"
