"""Transfer sets, wrong labels and mixed images: what the variants of configs/transfer_sets.py make of the data.

The shapes of every variant of the configs for several teachers, chains and transfer sets are checked here too; some
of them run (slow).
"""

from pathlib import Path

import jax
import numpy as np
import pytest
import scheme_checks
import toy

from kd_jax.config.fields import own_data, teachers_of
from kd_jax.data.batches import batch_shapes, train_batches
from kd_jax.data.load import load
from kd_jax.system.parallel import batch_sharding
from kd_jax.train.check import check_job
from kd_jax.train.jobs import make_model, plan


def config_of(variant):
    return scheme_checks.config_module("transfer_sets").get_config(variant)


def data_of(variant):
    """(the student's training set, the teacher's)."""
    config = config_of(variant)
    return load(config.data).train, load(own_data(config, config.teacher)).train


def pictures(source):
    return {image.tobytes() for image in source.images}


def test_unlabelled():
    student, teacher = data_of("")
    assert (student.labels >= 0).sum() == 100 and (teacher.labels >= 0).all()
    assert pictures(student) == pictures(teacher)


def test_held_out():
    student, teacher = data_of("held_out")
    assert abs(len(student) - len(teacher)) <= 1 and len(student) + len(teacher) == len(data_of("")[0])
    assert not pictures(student) & pictures(teacher)
    assert (student.labels >= 0).sum() == 100


def test_label_noise():
    right = data_of("")[1].labels
    student, teacher = data_of("label_noise")
    labelled = student.labels >= 0
    assert labelled.sum() == 400 and (student.labels != right)[labelled].sum() == 160
    np.testing.assert_array_equal(student.labels, teacher.labels)
    same, clean = data_of("label_noise_clean")
    np.testing.assert_array_equal(same.labels, student.labels)
    labelled = clean.labels >= 0
    assert labelled.sum() == 100 and (clean.labels == right)[labelled].all()


@pytest.mark.parametrize("variant", ["function_matching", "cutmix"])
def test_function_matching_shows_every_image_equally_often_and_needs_no_label(variant):
    config = config_of(variant)
    assert list(config.terms) == ["kd"] and config.terms.kd.kwargs.temperature == 1.0
    assert config.train.steps == 2 * config_of("").train.steps
    config.train.steps = 40
    job, source = plan_of(config)["student"]
    calls = job.scheme.stages[0].phases[0].forward
    assert {call.role: call.inputs for call in calls} == {"student": ("batch.image",), "teacher": ("batch.image",)}
    settings = dict(batch_size=64, seed=0, num_steps=40, sharding=batch_sharding(toy.mesh()))
    batches = list(train_batches(source, labelled_share=job.settings.labelled_share, **settings))
    rows = np.concatenate([batch["index"] for batch in batches])
    counts = np.bincount(rows, minlength=len(source))
    assert counts.min() >= 1 and counts.max() <= 3  # 40 * 64 rows of 1,257 images
    prepared = job.scheme.prepare(batches[0], jax.random.key(0), True)
    alone = job.scheme.prepare(batches[0], jax.random.key(0), False)
    assert (np.asarray(prepared["image"] != alone["image"]).reshape(64, -1).any(-1)).mean() > 0.9
    assert 0 < float(prepared["mix_weight"][0]) < 1


def plan_of(config):
    """{job: (Job, its training set)} of a config, with data but without training."""
    splits = load(config.data)
    teachers = {name: load(own_data(config, t))._asdict() for name, t in teachers_of(config).items()}
    named = {"student": config.student, **teachers_of(config), **config.roles}
    models = {role: make_model(fields["model"], splits.train) for role, fields in named.items()}
    jobs = plan(config, Path("nowhere"), models, splits._asdict(), teachers)
    return {name: (job, job.source) for name, job in jobs.items()}


@pytest.mark.parametrize("name", ["multi_teacher", "assistants", "transfer_sets"])
def test_every_variant_fits_together(name):
    module = scheme_checks.config_module(name)
    for variant in (*module.VARIANTS, f"{module.VARIANTS[-1]},tiny"):
        jobs = plan_of(module.get_config(variant))
        assert [*jobs][-2:] == ["baseline", "student"]
        job, source = jobs["student"]
        check_job(job, batch_shapes(source, job.settings.batch_size), toy.mesh())
    with pytest.raises(ValueError, match=module.VARIANTS[1]):
        module.get_config(module.VARIANTS[1] + "x")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("assistants", "dense"),
        ("multi_teacher", "confidence"),
        ("multi_teacher", "specialists"),
        ("transfer_sets", "label_noise_clean"),
        ("transfer_sets", "cutmix"),
    ],
)
def test_the_configs_run(tmp_path, name, variant):
    scheme_checks.run_tiny(name, variant, tmp_path, report=variant == "dense")
