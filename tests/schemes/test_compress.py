"""A chain of compression from the teacher to the file that ships: what learns, what is resumed, what is written."""

import json

import chains
import jax
import numpy as np
import pytest
from chains import FOLD, LEARN, prune, quantise

import kd_jax
from kd_jax.compress.units import magnitudes
from kd_jax.config.fields import settled
from kd_jax.core.bind import bind, init_optimizers, init_state, loaded_variables
from kd_jax.data.batches import batch_shapes
from kd_jax.models.vision.cnn import CNN
from kd_jax.system.checkpoint import load_tree
from kd_jax.system.signals import Signals, Stopped
from kd_jax.train.fit import DONE
from kd_jax.train.run import jobs_of

WHOLE = (prune(score="taylor"), LEARN, FOLD, quantise(keep="head"), LEARN, prune(share=0.25, score="activation"))


def scheme_of(chain, folder, **fields):
    data = kd_jax.from_arrays(train=chains.pictures(), test=chains.pictures(24, 1), validation=0.25)
    config = settled(chains.chained(chain, **fields))
    networks = dict(student=kd_jax.LinenModel(CNN(3, (2, 2))), teacher=kd_jax.LinenModel(CNN(3, (4, 4))))
    jobs, _ = jobs_of(config, folder, networks, data)
    return jobs["student"].scheme, jobs["student"].source


def test_every_step_has_a_network_of_known_shapes(tmp_path):
    scheme, _ = scheme_of(WHOLE, tmp_path, steps=6)
    assert [role for role, _ in scheme.chain] == ["step1", "step2", "step3", "step4", "step5", "student"]
    assert [label for _, label in scheme.chain] == [
        "prune 50 % of the channels (taylor)",
        "distill, 3 steps",
        "fold 2 BatchNorms",
        "int4",
        "distill, 3 steps",
        "prune 25 % of the channels (activation)",
    ]
    # What learns is a stage; what is left at the end has one in which nothing changes.
    assert [stage.steps for stage in scheme.stages] == [3, 3, 1]
    assert [stage.phases[0].group for stage in scheme.stages] == ["step2", "step5", "student"]
    assert [stage.selects for stage in scheme.stages] == [False, False, True]
    assert scheme.evaluate == ("student", "step1", "step2", "step3", "step4", "step5")
    widths = {role: network.model for role, network in scheme.roles.items()}
    assert widths["step2"].module.widths == (2, 2)
    assert widths["student"].model.model.module.widths == (2, 2)  # 1.5 of 2 channels are 2


def test_a_stage_begins_with_arrays_of_the_network_before_it(tmp_path):
    scheme, source = scheme_of((prune(), LEARN, {"step": "compress.anew.anew"}, LEARN), tmp_path, steps=4)
    bound, inputs = bind(scheme, batch_shapes(source, 8))
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
        first = jax.jit(lambda: init_state(bound, inputs, jax.random.key(0), loaded_variables(bound)))()
        before = jax.tree.map(np.array, (first.params, first.stats))
        entered = bound.stages[0].on_enter(first)
        later = bound.stages[1].on_enter(init_optimizers(bound, entered, 1))
    teacher = entered.frozen["teacher"][0]
    remaining = np.sort(np.argsort(-scores(teacher), kind="stable")[:2])
    kernel = np.asarray(teacher["stage1"]["conv"]["kernel"])[..., remaining]
    for role in ("step1", "step2"):
        np.testing.assert_array_equal(entered.params[role][role]["stage1"]["conv"]["kernel"], kernel)
    assert jax.tree.all(jax.tree.map(np.array_equal, entered.params["step3"], before[0]["step3"]))
    # "anew" keeps what the seed gave it, and what learns after it begins there.
    assert jax.tree.all(jax.tree.map(np.array_equal, later.params["student"]["student"], before[0]["step3"]["step3"]))


def scores(teacher):
    from kd_jax.compress.channels import channel_groups
    from kd_jax.compress.plan import network_of

    image = jax.ShapeDtypeStruct((1, 6, 6, 1), np.float32)
    units = channel_groups(network_of(kd_jax.LinenModel(CNN(3, (4, 4))), (image,)))
    return magnitudes(teacher, units[0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    return folder / "run", chains.run(folder, WHOLE, steps=6, report=True)


def test_the_chain_is_in_the_results_and_in_the_report(finished):
    folder, results = finished
    assert json.loads((folder / "results.json").read_text())["chain"] == results["chain"]
    first, *others = results["chain"]
    assert first["step"] == "teacher" and first["smaller"] == first["share_of_teacher"] == 1.0 and len(others) == 6
    for entry in results["chain"]:
        assert {*entry} >= {
            *("step", "accuracy", "parameters", "bytes_on_disk", "smaller", "share_of_teacher", "latency_ms")
        }
        assert (folder / entry["file"]).stat().st_size == entry["bytes_on_disk"]
        assert entry["smaller"] == first["bytes_on_disk"] / entry["bytes_on_disk"]
        assert entry["share_of_teacher"] == entry["accuracy"]["mean"] / first["accuracy"]["mean"]
        assert entry["latency_ms"]["1"] > 0
    assert others[0]["parameters"] < first["parameters"] and others[-1]["bytes_on_disk"] < first["bytes_on_disk"]
    assert others[1]["accuracy"] == others[2]["accuracy"]  # folding changes nothing
    (section,) = [s for s in results["sections"] if s["title"] == "The chain"]
    assert [row[0] for row in section["rows"]] == [entry["step"] for entry in results["chain"]]
    assert "The chain" in (folder / "report.html").read_text()


def test_every_file_scores_as_recorded(finished):
    folder, results = finished
    images, labels = chains.pictures(24, 1)
    for entry in results["chain"]:
        share = (kd_jax.load(folder / entry["file"]).predict(images) == labels).mean()
        assert share == pytest.approx(entry["accuracy"]["mean"]), entry["step"]
    student, small = kd_jax.load(folder), kd_jax.load(folder / results["chain"][-1]["file"])
    np.testing.assert_allclose(small.logits(images), student.logits(images), rtol=1e-5, atol=1e-5)
    assert small.info["role"] == "student"


def test_a_chain_that_is_stopped_ends_in_the_same_bytes(finished, tmp_path, monkeypatch):
    whole = finished[0] / "student"
    for stop in (3, 5):  # between two stages, and inside one
        with monkeypatch.context() as patch:
            patch.setattr(Signals, "stop_at", lambda self, step, stop=stop: step == stop)
            with pytest.raises(Stopped):
                chains.run(tmp_path, WHOLE, str(stop), steps=6)
        chains.run(tmp_path, WHOLE, str(stop), steps=6)
        ours = tmp_path / str(stop) / "student"
        assert (ours / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
        ends = [json.loads((path / DONE).read_text()) for path in (ours, whole)]
        assert ends[0]["last"] == ends[1]["last"]
        for role in ("step2", "step5", "student"):
            trees = [arrays(path / "export" / "last" / role) for path in (ours, whole)]
            jax.tree.map(np.testing.assert_array_equal, *trees)


def arrays(folder):
    student = kd_jax.load(folder)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (student.params, student.stats))
    kinds = {"params": shapes[0]} | ({"stats": shapes[1]} if jax.tree.leaves(shapes[1]) else {})
    return load_tree(folder, kinds)


def test_a_chain_on_labels_says_so(tmp_path):
    results = chains.run(tmp_path, (prune(), {"step": "learn", "terms": ("ce",)}), steps=2)
    assert [entry["step"] for entry in results["chain"]][1:] == [
        "prune 50 % of the channels (magnitude)",
        "learn from labels, 2 steps",
    ]
    assert results["chain"][0]["latency_ms"] is None  # measured with the report
