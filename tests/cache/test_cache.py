"""Training from a teacher's stored answers is training with the teacher, and another cache than that is refused."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import cached_run
import chex
import jax
import numpy as np
import pytest
import toy
from cached_run import assert_equal, configure, contents, run, splits, student, trained, variables

from kd_jax import prng
from kd_jax.cache.model import decode
from kd_jax.config import term
from kd_jax.core.paths import lookup
from kd_jax.data import answers, batches
from kd_jax.data.answers import CacheError
from kd_jax.system.parallel import batch_sharding, make_mesh
from kd_jax.system.workdir import locked
from kd_jax.train import loop
from kd_jax.train import run as train


@pytest.fixture(scope="module")
def on_the_fly(tmp_path_factory):
    directory = tmp_path_factory.mktemp("on_the_fly")
    return directory, run(configure(), directory)


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """The folder of a cache, and that of the run which built it."""
    directory = tmp_path_factory.mktemp("cached")
    return directory / "cache", run(configure(str(directory / "cache")), directory / "run"), directory / "run"


@pytest.mark.parametrize("mesh", [(1, 1), (8, 1), (4, 2)])
def test_the_result_is_that_of_training_with_the_teacher(on_the_fly, cached, tmp_path, monkeypatch, mesh):
    """Augmented, with views of their own for labelled and other examples, with a feature; the teacher has no memory."""
    frozen = []
    begin = loop.begin
    monkeypatch.setattr(loop, "begin", lambda *a: frozen.append((r := begin(*a)).state.frozen) or r)
    results = run(configure(str(tmp_path / "cache"), mesh), tmp_path / "run")
    assert frozen == [{"teacher": ({}, {})}]
    assert_equal(tmp_path / "run", results, on_the_fly)
    if mesh == (1, 1):
        assert contents(tmp_path / "cache") == contents(cached[0])


@pytest.mark.parametrize("which", ["all", "answers"])
def test_what_does_not_fit_the_device_is_read_ahead_of_the_step(on_the_fly, cached, tmp_path, monkeypatch, which):
    if which == "all":
        monkeypatch.setattr(batches, "RESIDENT_BYTES", 0)
    else:
        monkeypatch.setattr(batches, "answers_fit", lambda source: False)
    asked = []
    ask = answers.Answers.ask
    monkeypatch.setattr(answers.Answers, "ask", lambda self, *a: asked.append(1) or ask(self, *a))
    results = run(configure(str(cached[0])), tmp_path)
    assert len(asked) >= 12
    assert_equal(tmp_path, results, on_the_fly)


@pytest.mark.parametrize("options", [{"train.accumulate": 2, "steps_per_dispatch": 2}, {"teacher.dtype": "int8"}])
def test_several_steps_a_dispatch_microbatches_and_an_int8_teacher(tmp_path, options):
    runs = []
    for folder in ("", str(tmp_path / "cache")):
        config = configure(folder)
        config.update_from_flattened_dict(options)
        runs.append((tmp_path / f"run{bool(folder)}", run(config, tmp_path / f"run{bool(folder)}")))
    assert_equal(*runs[1], runs[0])


def test_a_report_of_a_cached_run(tmp_path):
    config = configure("auto")
    config.update(dict(report=True, baseline=True, examples=2))
    results = run(config, tmp_path)
    assert set(results["models"]) == {"teacher", "baseline", "student"}
    assert "teacher" in (tmp_path / "report.html").read_text()
    assert results["models"]["teacher"]["parameters"] == results["models"]["student"]["parameters"] > 0


def pictures_and_answers(config, tmp_path, steps=8):
    """(batch, what the teacher says to its pictures, what the cache says, the pictures) of the student's run."""
    run(config, tmp_path, until="cache")
    networks = {"student": toy.LinenModel(cached_run.STUDENT), "teacher": toy.LinenModel(cached_run.TEACHER)}
    data = splits()
    config = train.note_objects(config, networks, data, {"teacher"})
    jobs, _ = train.jobs_of(config, tmp_path, networks, data)
    job = jobs["student"]
    plan = job.caches["teacher"]
    source = dataclasses.replace(job.source, answers={"teacher": answers.open_answers(plan.folder / "train")})
    settings, mesh = job.settings, make_mesh(config.mesh.axes)
    stream = batches.train_batches(
        source,
        batch_size=16,
        seed=settings.data_seed,
        num_steps=steps,
        sharding=batch_sharding(mesh),
        labelled_share=settings.labelled_share,
        views=settings.views,
    )
    key = jax.random.key(settings.data_seed)

    teacher = variables()

    @jax.jit
    def both(batch):
        prepared = job.scheme.prepare(batch, prng.stream(key, "prepare", 0), True)
        inputs = [lookup({"batch": prepared}, p) for p in plan.role.inputs]
        said = plan.role.model.apply(*teacher, *inputs, train=False, key=key)[0].logits
        stored = {name: prepared[f"teacher/{name}"] for name in plan.store.names}
        return said, decode(plan.store, toy.CLASSES, stored).logits, prepared["image"]

    return [(batch, *both(batch)) for batch in stream]


@pytest.mark.parametrize(
    ("changes", "views"),
    [({}, 4), ({"views": 2}, 2), ({"view_seed": 5}, 4), ({"view": "clean"}, 4), ({"augment": ()}, 4)],
    ids=["as needed", "two", "of another seed", "clean", "without augmentation"],
)
def test_an_answer_belongs_to_the_picture_that_the_student_sees(tmp_path, changes, views):
    config = configure(str(tmp_path / "cache"))
    config.teacher.cache.views, config.view_seed = changes.get("views", 0), changes.get("view_seed")
    config.teacher.view, config.train.augment = (
        changes.get("view", "same"),
        changes.get("augment", config.train.augment),
    )
    pictures: dict[tuple[int, int], np.ndarray] = {}
    for batch, said, stored, images in pictures_and_answers(config, tmp_path):
        np.testing.assert_allclose(stored, said, rtol=1e-5, atol=1e-5)
        for index, view, image in zip(batch["index"], batch["view"], images, strict=True):
            first = pictures.setdefault((int(index), int(view)), np.asarray(image))
            np.testing.assert_array_equal(first, image)
    assert max(view for _, view in pictures) == views - 1
    stored = json.loads((tmp_path / "cache" / "train" / "manifest.json").read_text())["views"]["rows"]
    assert stored == {"view": 40, "augment": 40, "views": 80}.get(next(iter(changes), ""), 40 * 5)  # 12 steps show 5


def test_runs_of_other_seeds_and_losses_share_a_cache(cached, tmp_path):
    before = contents(cached[0])
    config = configure(str(cached[0]))
    config.seed, config.view_seed, config.terms.kd.kwargs.temperature = 3, 0, 4.0
    del config.terms["hint"]
    run(config, tmp_path)
    assert contents(cached[0]) == before


OTHER = {
    "teacher": ({}, {"seed": 1}, "teacher.parameters: expected '"),
    "data": ({}, {"data": splits(1)}, "data.sha256: expected '"),
    "augmentation": (
        {"train.augment": ("flip",)},
        {},
        r"pictures.of.batch.teacher:image: expected \['flip'\], the cache has",
    ),
    "seed of the pictures": ({"view_seed": 1}, {}, "pictures.seed: expected 1, the cache has 0"),
    "kind": ({"teacher.cache.k": 2}, {}, "answers.k: expected 2, the cache has 0"),
    "type": ({"teacher.cache.dtype": "bfloat16"}, {}, "answers.dtype: expected 'bfloat16', the cache has 'float32'"),
    "feature": (
        {"teacher.cache.features": ("norm",)},
        {},
        r"features:norm: expected \(\(4,\), 'float32'\), the cache has \['features:hidden', 'logits'\]",
    ),
    "length": (
        {"train.steps": 20},
        {},
        r"this run shows 8 views of example 0, the cache has 5 \(config.teacher.cache.views=5 would repeat those\)",
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_answers_are_refused(cached, tmp_path, name):
    changes, options, message = OTHER[name]
    config = configure(str(cached[0]))
    config.update_from_flattened_dict(changes)
    with pytest.raises(CacheError, match=rf"holds other answers:\n.*{message}"):
        run(config, tmp_path, **options)
    assert not (tmp_path / "student").exists()


def test_views_that_are_there_can_be_repeated(cached, tmp_path):
    config = configure(str(cached[0]), views=5)
    config.train.steps = 20
    run(config, tmp_path)


LOGIT_MSE = term("losses.response.logit_mse_loss", ("student.logits",), ("teacher.logits",))
MISTAKES = {
    "mixup": (lambda c: c.train.update(augment=("mixup",)), "mixup and cutmix show two examples at once"),
    "logits": (
        lambda c: (c.teacher.cache.update(k=2), c.terms.__setitem__("kd", LOGIT_MSE)),
        r"Term 'kd' \(logit_mse_loss\) reads every logit.*2 largest are stored.* with config.teacher.cache.k=0",
    ),
    "parameters": (
        lambda c: c.terms.hint.update(targets=("params.teacher.hidden.bias",)),
        "Term 'hint' reads 'params.teacher.hidden.bias': it needs the teacher itself",
    ),
    "type": (lambda c: c.teacher.cache.update(dtype="int4"), "cache.dtype is 'int4'"),
    "tap": (lambda c: c.teacher.cache.update(features=("nrom",)), "'nrom'.*'norm'"),
    "no cache": (lambda c: c.teacher.cache.update(directory=""), "where a teacher.cache.directory is given"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_before_anything_is_built(tmp_path, name):
    change, message = MISTAKES[name]
    config = configure(str(tmp_path / "cache"))
    change(config)
    with pytest.raises(ValueError, match=message):
        run(config, tmp_path, until="cache")
    assert not (tmp_path / "cache").exists()


def test_an_answer_that_is_no_number(tmp_path):
    bad = jax.tree.map(lambda x: x * 1e30, variables())  # numbers, whose products are none
    with pytest.raises(CacheError, match="answer to example 0, view 0, of test is no number or does not fit float32"):
        run(configure(str(tmp_path / "a")), tmp_path / "run", teacher_variables=bad)
    large = jax.tree.map(lambda x: x * 1e5, variables())
    with pytest.raises(CacheError, match="does not fit float16"):
        run(configure(str(tmp_path / "b"), dtype="float16"), tmp_path / "run", teacher_variables=large)


def test_sizes_are_told_before_a_disk_that_is_too_small(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CacheError, match=r"has 1.0 kB free, and 6.5 kB are to be written: a smaller cache.k"):
        run(configure(str(tmp_path / "cache")), tmp_path / "run")
    output = capsys.readouterr().out
    assert "train: 40 examples x 5 views = 200 answers of 28 bytes (features:hidden 16, logits 12) = 5.6 kB" in output
    assert "total 6.5 kB in" in output


def test_a_second_builder_is_refused(tmp_path):
    with locked(tmp_path / "cache"), pytest.raises(ValueError, match="Another run works in .*cache"):
        run(configure(str(tmp_path / "cache")), tmp_path / "run")


def test_a_damaged_cache_is_refused(cached, tmp_path):
    folder = shutil.copytree(cached[0], tmp_path / "cache")
    path = folder / "train" / "logits" / "c" / "0" / "0"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CacheError, match="has changed: its SHA-256 is"):
        run(configure(str(folder)), tmp_path / "run")


def test_built_beside_the_teacher_and_used_where_the_teacher_is_not(tmp_path, capsys):
    options = dict(teacher_variables=None)
    first = run(trained("auto"), tmp_path / "a", **options)
    (folder,) = (tmp_path / "a" / "teacher" / "cache").iterdir()
    assert contents(folder) and first["models"]["teacher"]["steps"] == 4
    shutil.copytree(folder, tmp_path / "cache")
    capsys.readouterr()
    second = run(trained(str(tmp_path / "cache")), tmp_path / "b", **options)
    assert not (tmp_path / "b" / "teacher").exists() and "it is not on this machine" in capsys.readouterr().out
    chex.assert_trees_all_equal(student(tmp_path / "a"), student(tmp_path / "b"))
    for which in ("student", "teacher"):
        assert first["models"][which]["last"]["test"] == second["models"][which]["last"]["test"]
    with pytest.raises(CacheError, match="teacher.trained.teacher.train.augment: expected"):
        run(trained(str(tmp_path / "cache"), augment=()), tmp_path / "c", **options)
    data = splits()
    data = data._replace(train=data.train.with_labels(data.train.labels[::-1].copy()))
    with pytest.raises(CacheError, match="teacher.trained.digests.data.train.label: expected"):
        run(trained(str(tmp_path / "cache")), tmp_path / "e", data=data, **options)
    config = trained("auto")  # where the teacher is there its parameters decide
    config.teacher.seed = 9
    run(config, tmp_path / "d", until="cache", **options)
    config.teacher.cache.directory = str(tmp_path / "cache")
    with pytest.raises(CacheError, match="teacher.parameters: expected"):
        run(config, tmp_path / "d", until="cache", **options)
