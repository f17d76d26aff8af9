"""kd_jax.load: what is loaded answers as it was scored; raw examples in every form; predict and card of a run."""

import csv
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from mistakes import CLASSES, FEATURES, MLP, config, points, run
from PIL import Image

import kd_jax
from kd_jax import card, predict
from kd_jax.models.branches import branched_cnn
from kd_jax.models.described import NotDescribable, describe, rebuild
from kd_jax.models.exits import exits
from kd_jax.models.lora import lora
from kd_jax.models.quantised import Quantised
from kd_jax.models.remat import Remat
from kd_jax.system.exports import check_export

X, Y = points(40, 1)  # the test split of mistakes.data
HELPERS = Path(__file__).parent.parent / "helpers"


class Perceptron(nnx.Module):
    """NNX: features -> classes."""

    def __init__(self, rngs, width=8):
        self.hidden, self.head = nnx.Linear(FEATURES, width, rngs=rngs), nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.hidden(x)))


@functools.cache
def finished(folder):
    return folder, run(folder, config(steps=4, baseline=True))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return finished(tmp_path_factory.getbasetemp() / "loaded")


def accuracy(student):
    return float((student.predict(X) == Y).mean())


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize("name", ["student", "teacher", "baseline"])
def test_it_has_exactly_the_accuracy_of_the_results(done, name, which):
    folder, results = done
    student = kd_jax.load(folder / "run" / name, which=which)
    assert accuracy(student) == pytest.approx(results["models"][name][which]["test"]["accuracy"], abs=1e-9)
    assert student.info["which"] == which and student.info["scores"]["step"] == results["models"][name][which]["step"]


def test_a_workdir_is_its_student_and_results_name_what_load_takes(done):
    folder, results = done
    best = kd_jax.load(folder / "run")
    assert (best.info["role"], best.info["which"]) == ("student", "best")
    for model in results["models"].values():
        assert kd_jax.load(folder / "run" / model["export"]).info["which"] == "last"


def test_every_export_tells_what_it_is(done):
    folder, _ = done
    exports = sorted((folder / "run").glob("*/export/*/*"))
    assert len(exports) == 6
    for export in exports:
        check_export(export)
        info = json.loads((export / "model.json").read_text())
        assert info["input"] == {"shape": [FEATURES], "dtype": "float32"} and info["classes"] == ["0", "1", "2", "3"]
        assert info["task"]["name"] == "classify" and info["versions"]["jax"] == jax.__version__
        assert len(info["preparation"]["mean"]) == FEATURES and info["seed"] == 0
        assert info["architecture"]["name"] == "mistakes:MLP"
        arrays = {p.relative_to(export).as_posix() for p in export.rglob("*") if p.is_file()}
        assert {*info["sha256"]} == arrays - {"SHA256", "model.json"}


def test_raw_examples_come_in_every_form(done):
    student = kd_jax.load(done[0] / "run")
    expected = student.predict(X)
    assert expected.shape == (40,) and expected.dtype.kind == "i"
    for raw in (list(X), X.astype(np.float64), X.tolist(), {"image": X}, (x for x in X)):
        np.testing.assert_array_equal(student.predict(raw), expected)
    assert student.predict(X[0]) == expected[0] and student.logits(X[0]).shape == (CLASSES,)
    many = np.concatenate([X] * 7)  # more than are asked at once
    np.testing.assert_array_equal(student.predict(many), np.concatenate([expected] * 7))
    inputs = student.prepare(X)
    key = jax.random.key(0)
    outputs, _ = student.model.apply(student.params, student.stats, *inputs, train=False, key=key)
    np.testing.assert_allclose(outputs.logits, student.logits(X), rtol=1e-6, atol=1e-6)


def test_a_network_is_compiled_once_for_each_power_of_two(done):
    traced = []

    class Counted(MLP):
        def __call__(self, x):
            traced.append(x.shape[0])
            return super().__call__(x)

    student = kd_jax.load(done[0] / "run", model=Counted())
    traced.clear()
    for count in (1, 5, 6, 7, 8, 5, 9):
        student.predict(X[:count])
    assert traced == [1, 8, 16]


def test_it_is_read_in_a_fresh_process_from_another_folder(tmp_path):
    student = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(CLASSES)])
    run(tmp_path, student=student)
    expected = kd_jax.load(tmp_path / "run").logits(X)
    np.save(tmp_path / "x.npy", X)
    code = "import kd_jax, numpy as np; np.save('y.npy', kd_jax.load('run').logits(np.load('x.npy')))"
    root = Path(kd_jax.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": str(root)})
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-6, atol=1e-6)


def test_nnx_by_a_builder_that_can_be_imported(tmp_path):
    results = run(tmp_path, student=kd_jax.NNXModel(Perceptron))
    student = kd_jax.load(tmp_path / "run", which="last")
    assert accuracy(student) == pytest.approx(results["models"]["student"]["last"]["test"]["accuracy"], abs=1e-9)


def test_adapters_have_their_base_in_the_export(tmp_path):
    fields = config(steps=4, student__inputs=("batch.image", "params.teacher"))
    results = run(tmp_path, fields, student=lora(MLP(16), rank=2, targets="embedding"))
    export = tmp_path / "run/student/export/last/student"
    student = kd_jax.load(export)
    assert accuracy(student) == pytest.approx(results["models"]["student"]["last"]["test"]["accuracy"], abs=1e-9)
    teacher = kd_jax.load(tmp_path / "run/teacher", which="last")
    jax.tree.map(np.testing.assert_array_equal, student.fixed["1"], teacher.params)


def test_rounded_networks_and_those_beside_them(tmp_path):
    scheme = kd_jax.config.part("schemes.quantised.build", bits=(4,), activations=8)
    results = run(tmp_path, config(steps=4, scheme=scheme))
    folder, model = tmp_path / "run/student/export/last", results["models"]["student"]
    scores = {"student": model["last"]} | {name: entry["last"] for name, entry in model["others"].items()}
    for role in ("student", "labels", "float"):
        student = kd_jax.load(folder / role)
        assert accuracy(student) == pytest.approx(scores[role]["test"]["accuracy"], abs=1e-9)
        assert student.info["main"] == (role == "student")
    assert kd_jax.load(folder).info["role"] == "student"  # the main one of a step


@pytest.mark.parametrize(
    ("labels", "task", "expected"),
    [
        (lambda y: (np.arange(3) == y[:, None]).astype(np.int32), "tasks.multilabel.task", (40, 3)),
        (lambda y: y.astype(np.float32), "tasks.regress.task", (40,)),
        (lambda y: np.stack([y, -y], 1).astype(np.float32), "tasks.regress.task", (40, 2)),
    ],
)
def test_what_is_predicted_comes_from_the_task(tmp_path, labels, task, expected):
    (x, y), outputs = points(80), (expected[1:] or (1,))[0]
    data = kd_jax.from_arrays(train=(x, labels(y)), test=(X, labels(Y)))
    fields = config({"bce": {}} if "multi" in task else {"mse": {}}, task__name=task, teacher__model__name="")
    results = run(tmp_path, fields, student=MLP(8, outputs), teacher=None, data=data)
    student = kd_jax.load(tmp_path / "run")
    answers, scores = student.predict(X), results["models"]["student"]["last"]["test"]
    assert answers.shape == expected and student.info["task"]["predicts"]
    if "multi" in task:
        assert (answers == labels(Y)).mean() == pytest.approx(scores["accuracy"], abs=1e-6)
    else:
        assert np.sqrt(((answers - labels(Y)) ** 2).mean()) == pytest.approx(scores["rmse"], rel=1e-5)


def test_a_decoder_reads_and_writes_texts(tmp_path):
    text = tmp_path / "texts.txt"
    text.write_text("\n\n".join(f"the {a} sees the {b}" for a in ("cat", "dog", "cow", "hen") for b in ("sun", "sea")))
    fields = config({"ce": {}}, steps=2, teacher__model__name="", data__validation=0.0)
    fields.data.update(dict(name="text", directory=str(text), tokenizer="character", length=24, test=0.25))
    small = dict(name="models.language.decoder_families.llama", kwargs=dict(width=8, depth=1, heads=2, tied=True))
    fields.student.model, fields.student.inputs = small, ("batch.tokens", "batch.segments")
    kd_jax.run(fields, tmp_path / "run")
    student = kd_jax.load(tmp_path / "run")
    assert student.logits(["the cat", "the hen sees"]).shape[:2] == (2, 24)
    written = student.write(["the cat", "the hen sees"], length=5)
    ids = student.predict({name: value for name, value in _rows(student, ["the cat"]).items()})
    assert len(written) == 2 and all(isinstance(one, str) and len(one) <= 5 for one in written)
    first = ids[0, len("the cat")]  # what follows the start token and the text
    decoded = student.write("the cat", length=1)
    names = json.loads(student.tokenizer)["model"]["vocab"]
    assert decoded == {i: name for name, i in names.items() if not name.startswith("<")}.get(int(first), "")
    assert student.predict("the cat") == student.write("the cat")


def _rows(student, texts):
    return rebuild(student.info["preparation"]["text"])(texts, student.tokenizer)


MODELS = {
    "branches": branched_cnn(3, shared=(4,), widths=(4,), gate="gate"),
    "exits": exits(3, {"name": "models.vision.cnn.cnn", "kwargs": {"widths": (4, 4)}}, ("stage1",), "stage2"),
    "rounded, kept in pieces": Remat(Quantised(kd_jax.LinenModel(MLP())), "", "nothing_saveable"),
    "dtype and initialiser": nn.Dense(3, dtype=jnp.bfloat16, kernel_init=nn.initializers.he_normal()),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_description_is_json_and_makes_the_same_network(name):
    described = json.loads(json.dumps(describe(MODELS[name])))
    assert describe(rebuild(described)) == described
    image = jnp.ones((2, 8, 8, 3)) if name in ("branches", "exits") else jnp.ones((2, FEATURES))
    inputs = (image, jnp.array([4.0, 32.0])) if "rounded" in name else (image,)

    def shapes(model):
        model = kd_jax.LinenModel(model) if isinstance(model, nn.Module) else model
        variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
        return jax.eval_shape(lambda v: model.apply(*v, *inputs, train=False, key=jax.random.key(0)), variables)

    assert shapes(rebuild(described)) == shapes(MODELS[name])


@pytest.mark.parametrize("value", [lambda x: x, object(), np.zeros(2000), {1: 2}])
def test_what_cannot_be_imported_is_not_described(value):
    with pytest.raises(NotDescribable):
        describe(value)


@pytest.mark.parametrize("name", ["os:system", "builtins:eval", "subprocess:run"])
def test_a_description_calls_nothing_of_pythons_own(name):
    with pytest.raises(ValueError, match="no part of a network"):
        rebuild({"name": name, "kwargs": {}})


def test_files_are_predicted_as_arrays_are(done, tmp_path, monkeypatch):
    run_folder = done[0] / "run"
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", image=X[:3])
    np.savetxt(tmp_path / "x.csv", X[:2], delimiter=",", header="abcdef".replace("", ",")[1:-1], comments="")
    names = [str(tmp_path / f"x.{kind}") for kind in ("npy", "npz", "csv")]
    assert predict.predict_files(str(run_folder), names, str(tmp_path / "out.csv")) == 45
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    expected = kd_jax.load(run_folder).predict(X).tolist()
    assert [int(row["prediction"]) for row in rows] == expected + expected[:3] + expected[:2]
    assert rows[40] == {"file": names[1], "example": "0", "prediction": str(expected[0]), "class": str(expected[0])}
    predict.main([str(run_folder), names[0], f"--out={tmp_path / 'out.jsonl'}"])
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["prediction"] for line in lines] == expected


def test_pictures_are_resized_to_what_the_network_reads(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (32, 8, 8, 1), np.uint8), np.arange(32) % CLASSES
    data = kd_jax.from_arrays(train=(x, y), test=(x, y))
    run(tmp_path, data=data, student=MLP(), teacher=MLP())
    (tmp_path / "pictures").mkdir()
    for i, one in enumerate(x[:3]):
        Image.fromarray(one[..., 0]).resize((16, 16), Image.Resampling.NEAREST).save(tmp_path / f"pictures/{i}.png")
        Image.fromarray(one[..., 0]).save(tmp_path / f"{i}.png")
    same = [str(tmp_path / f"{i}.png") for i in range(3)]
    predict.predict_files(str(tmp_path / "run"), [*same, str(tmp_path / "pictures")], str(tmp_path / "out.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["prediction"] for line in lines[:3]] == kd_jax.load(tmp_path / "run").predict(x[:3]).tolist()
    assert len(lines) == 6


def test_the_card_tells_what_the_run_found(done):
    folder, results = done
    place = card.write_card(folder / "run", license="apache-2.0", which="last")
    text = place.read_text()
    front, body = text.split("---\n")[1:3]
    assert "license: apache-2.0\n" in front and "library_name: jax\n" in front
    assert "pipeline_tag: tabular-classification\n" in front
    index = json.loads(front.partition("model-index: ")[2].splitlines()[0])
    value = index[0]["results"][0]["metrics"][0]
    assert value == {"type": "accuracy", "value": results["models"]["student"]["last"]["test"]["accuracy"]}
    assert results["verdict"]["text"] in body and "kd_jax.load" in body and "## Limits" in body
    check_export(place.parent)
    assert accuracy(kd_jax.load(place.parent)) == pytest.approx(value["value"], abs=1e-9)


def test_a_run_ends_with_the_lines_that_use_its_student(tmp_path, capsys):
    run(tmp_path)
    *_, lead, first, second, third = capsys.readouterr().out.splitlines()
    assert "student/export/last/student" in lead
    names: dict = {"raw": X}
    exec("\n".join(line.strip() for line in (first, second, f"answers = {third.strip()}")), names)
    assert names["answers"].shape == (40,)
