import jax
import numpy as np
import pytest
from mistakes import MLP, config, data, points, run

import kd_jax
from kd_jax.cache import answer_files
from kd_jax.cache.stored import with_stored, write_answers
from kd_jax.models.adapters import LinenModel


@pytest.fixture(scope="module")
def teacher():
    """(a network, its variables, what it answers to rows)."""
    whole = data()
    rows = (whole.train.images[:1] - np.array(whole.train.mean)) / np.array(whole.train.std)
    network = MLP(16)
    variables = network.init(jax.random.key(3), rows)

    def answers(x):
        prepared = (x - np.array(whole.train.mean)) / np.array(whole.train.std)
        return np.asarray(network.apply(variables, prepared.astype(np.float32)), np.float32)

    return network, variables, answers


def logits_of(teacher, whole):
    return {s: teacher[2](source.images) for s, source in whole._asdict().items()}


def scores(results, model="student"):
    return results["models"][model]["last"]


def test_answers_teach_as_their_teacher_does(tmp_path, teacher):
    network, variables, _ = teacher
    whole = data()
    normalised = config(steps=8, teacher__preparation={"like": "data"})
    asked = run(tmp_path / "asked", normalised, teacher=network, teacher_variables=variables)
    told = run(tmp_path / "told", config(steps=8), teacher=kd_jax.from_answers(**logits_of(teacher, whole)))
    for model in ("student", "teacher"):
        for split in ("validation", "test"):
            for metric, value in scores(asked, model)[split].items():
                if value is not None:
                    assert scores(told, model)[split][metric] == pytest.approx(value, rel=1e-4), (model, split, metric)
    assert told["models"]["teacher"]["name"] == "StoredAnswers"


def test_answers_to_the_rows_before_some_were_held_out(tmp_path, teacher):
    whole, (x, _), (other, _) = data(), points(), points(40, 1)
    some = kd_jax.from_answers(**logits_of(teacher, whole))
    every = kd_jax.from_answers(teacher[2](x), test=teacher[2](other))
    for split in ("train", "validation", "test"):
        one, two = (with_stored("teacher", t, whole._asdict())[split].answers["teacher"].whole() for t in (some, every))
        np.testing.assert_allclose(one["logits"], two["logits"], atol=1e-6)


def test_without_answers_to_test_nobody_is_compared(tmp_path, teacher, capsys):
    only = kd_jax.from_answers(logits_of(teacher, data())["train"])
    made = config(steps=4, report=True, baseline=True)
    results = run(tmp_path, made, teacher=only)
    said = capsys.readouterr().out
    assert "student: the teacher has no answers to validation and test: agreement with it is left out" in said
    assert "teacher: not scored: it has no answers to the validation split" in said
    assert scores(results)["test"].get("agreement") is None and scores(results)["test"]["accuracy"] > 0
    assert (tmp_path / "run" / "report.html").exists()


def test_probabilities_and_top_k(teacher):
    logits = logits_of(teacher, data())
    p = {s: np.asarray(jax.nn.softmax(x)) for s, x in logits.items()}
    soft = kd_jax.from_answers(p["train"], test=p["test"], probabilities=True)
    np.testing.assert_allclose(jax.nn.softmax(soft.arrays["test"]["logits"]), p["test"], rtol=1e-5)
    ids = np.argsort(-p["train"], axis=-1)[:, :2]
    top = kd_jax.from_answers({"top_log_probs": np.log(np.take_along_axis(p["train"], ids, -1)), "top_ids": ids})
    answers = with_stored("teacher", top, {"train": data().train})["train"].answers["teacher"].whole()
    rest = 1 - np.exp(answers["log_probs"]).sum(-1)
    np.testing.assert_allclose(np.exp(answers["tail"]), rest, rtol=1e-4)
    assert top.store.k == 2 and top.classes is None


@pytest.mark.parametrize("kind", [".npz", ".safetensors", ".parquet"])
def test_files_of_answers(tmp_path, teacher, kind):
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    logits = logits_of(teacher, data())
    splits = {s: {"logits": x, "features:embedding": np.tanh(x[:, :2])} for s, x in logits.items()}
    path = tmp_path / f"answers{kind}"
    answer_files.write(path, splits)
    read = kd_jax.from_answers(path)
    for split, fields in splits.items():
        np.testing.assert_array_equal(read.arrays[split]["logits"], fields["logits"])
        np.testing.assert_array_equal(read.arrays[split]["features:embedding"], fields["features:embedding"])
    assert read.store.features == ("embedding",)


def test_a_road_by_the_config_alone(tmp_path, teacher):
    """A file of answers and an .npz of data -> a run -> the student, loaded and used; another file is other answers."""
    whole, file = data(), tmp_path / "answers.npz"
    answer_files.write(file, {s: {"logits": x} for s, x in logits_of(teacher, whole).items()})
    made = config("kd", steps=40, report=True)
    made.teacher.model = dict(name="cache.stored.from_answers", kwargs=dict(path=str(file)))
    results = kd_jax.run(made, tmp_path / "run", student=MLP(), data=whole)
    assert results["models"]["teacher"]["name"] == "from_answers" and scores(results, "teacher")["test"]["accuracy"] > 0
    assert scores(results)["test"]["agreement"] > 0.5
    model = LinenModel(MLP())
    rows = (whole.test.images - np.array(whole.train.mean)) / np.array(whole.train.std)
    template = {"params": jax.eval_shape(model.init, jax.random.key(0), rows)[0]}
    tree = kd_jax.system.checkpoint.load_tree(tmp_path / "run/student/export/last/student", template)
    classes = np.asarray(MLP().apply(tree, rows)).argmax(-1)
    assert np.mean(classes == whole.test.labels) == pytest.approx(scores(results)["test"]["accuracy"])
    answer_files.write(file, {s: {"logits": x[:, ::-1].copy()} for s, x in logits_of(teacher, whole).items()})
    with pytest.raises(ValueError, match="answers"):
        kd_jax.run(made, tmp_path / "run", student=MLP(), data=whole)


def test_features_teach(tmp_path, teacher):
    whole = data()
    logits = logits_of(teacher, whole)
    hints = np.tanh(whole.train.images @ np.ones((6, 8), np.float32))
    answers = kd_jax.from_answers(
        logits["train"], test=logits["test"], validation=logits["validation"], features={"h": hints}
    )
    term = kd_jax.config.term(
        "losses.feature.feature_hint_loss", ("student.features:embedding",), ("teacher.features:h",)
    )
    results = run(tmp_path, config({"hint": {**term, "weight": 1.0}}, steps=4), teacher=answers)
    assert np.isfinite(scores(results)["test"]["agreement"])


@pytest.mark.parametrize("store", [{}, {"k": 2, "dtype": "uint8"}], ids=["all", "top"])
def test_the_folder_of_a_cache(tmp_path, teacher, store):
    network, variables, _ = teacher
    made = config(steps=4)
    made.teacher.cache.update({"directory": str(tmp_path / "cache"), **store})
    cached = run(tmp_path / "first", made, teacher=network, teacher_variables=variables)
    told = run(tmp_path / "second", config(steps=4), teacher=kd_jax.from_answers(tmp_path / "cache"))
    assert scores(told)["test"] == scores(cached)["test"]
    write_answers(kd_jax.from_answers(tmp_path / "cache"), tmp_path / "answers.npz")
    again = run(tmp_path / "again", config(steps=4), teacher=kd_jax.from_answers(tmp_path / "answers.npz"))
    for metric, value in scores(cached)["test"].items():
        assert value is None or scores(again)["test"][metric] == pytest.approx(value, rel=1e-3), metric
    with pytest.raises(ValueError, match="are to other data than arrays/train"):
        run(tmp_path / "third", config(steps=4), teacher=kd_jax.from_answers(tmp_path / "cache"), data=data(seed=5))


def test_several_teachers_from_files(tmp_path, teacher):
    whole = data()
    file = tmp_path / "answers.npz"
    answer_files.write(file, {s: {"logits": x} for s, x in logits_of(teacher, whole).items()})
    made = config(steps=4)
    made.teacher.model = dict(name="cache.stored.from_answers", kwargs=dict(path=str(file)))
    made.teachers.other = kd_jax.config.teacher_fields("cache.stored.from_answers")
    made.teachers.other.model.kwargs = dict(path=str(file))
    made.terms["second"] = {**made.terms["kd"], "targets": ("other.logits",)}
    results = kd_jax.run(made, tmp_path / "run", student=MLP(), data=whole)
    assert scores(results, "other")["test"] == scores(results, "teacher")["test"]


def test_a_sweep_reads_answers(tmp_path, teacher):
    from kd_jax.sweep import run as sweep
    from kd_jax.sweep.spec import parse

    whole, file = data(), tmp_path / "answers.npz"
    np.savez(
        tmp_path / "data.npz",
        **{f"{s}_{a}": v for s, one in whole._asdict().items() for a, v in (("x", one.images), ("y", one.labels))},
    )
    answer_files.write(file, {s: {"logits": x} for s, x in logits_of(teacher, whole).items()})
    made = config(steps=4)
    made.data.update(dict(name="arrays", directory=str(tmp_path / "data.npz")))
    made.student.model = dict(name="models.mlp.mlp", kwargs=dict(widths=(8,)))
    made.teacher.model = dict(name="cache.stored.from_answers", kwargs=dict(path=str(file)))
    results = sweep.run(made, parse("terms.kd.weight=0.1,0.9"), tmp_path / "sweep")
    assert len(results["runs"]) == 2 and results["models"]["teacher"]["last"]["test"]["accuracy"] > 0
