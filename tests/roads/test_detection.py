"""From scenes, or a person's own pictures and boxes, to a detector that is loaded and finds them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from coco_files import squares as coco_squares
from coco_files import write
from PIL import Image
from scheme_checks import config_module

import kd_jax
from kd_jax import predict
from kd_jax.data import boxes, scenes
from kd_jax.export.examples import Examples
from kd_jax.export.run import export
from kd_jax.losses.detection import overlaps
from kd_jax.tasks.average_precision import average_precision

pytest.importorskip("faster_coco_eval")
ROOT = Path(__file__).parents[2]


def test_the_command_trains_a_detector_that_is_loaded_and_asked(tmp_path):
    pytest.importorskip("sklearn")
    line = [sys.executable, str(ROOT / "launch.py"), "--config=configs/detection.py:ld,tiny", "--workdir=run"]
    line += ["--config.data.eval_limit=24", "--config.data.limit=64", "--config.baseline=False"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    measured = results["models"]["student"]["last"]["test"]
    assert 0 <= measured["ap"] <= measured["ap50"] and measured["ap_error"] is not None and measured["nll"] > 0
    titles = {section["title"]: section for section in results["sections"]}
    assert {"Boxes", "AP by class"} <= {*titles}
    assert len(titles["Boxes"]["images"]) == 3 * 6  # truth, teacher, student
    student = kd_jax.load(tmp_path / "run")
    test = scenes.split("test")
    answer = student.predict(test.images[:5])
    assert {name: x.shape for name, x in answer.items()} == {"boxes": (5, 20, 4), "scores": (5, 20), "classes": (5, 20)}
    single = student.predict(test.images[0])
    np.testing.assert_allclose(single["scores"], answer["scores"][0], rtol=1e-4, atol=1e-6)
    Image.fromarray(test.images[0, ..., 0]).save(tmp_path / "scene.png")
    predict.predict_files(str(tmp_path / "run"), [str(tmp_path / "scene.png")], str(tmp_path / "found.jsonl"))
    record = json.loads((tmp_path / "found.jsonl").read_text())
    np.testing.assert_allclose(record["prediction"]["scores"], single["scores"], rtol=1e-4, atol=1e-6)


def squares(count, seed):
    """Pictures of bright squares and dark ones, one or two each: they are easy to find."""
    rng = np.random.default_rng(seed)
    images, places, kinds = np.full((count, 32, 32, 1), 120, np.uint8), [], []
    for image in images:
        corners, classes = [], []
        for half in rng.permutation(2)[: rng.integers(1, 3)]:
            side, kind = rng.integers(8, 13), int(rng.integers(2))
            x, y = 16 * half + rng.integers(0, 17 - side), rng.integers(0, 33 - side)
            image[y : y + side, x : x + side] = (0, 255)[kind]
            corners.append((x, y, x + side, y + side))
            classes.append(kind)
        places.append(corners)
        kinds.append(classes)
    return images, places, kinds


def test_own_pictures_are_learned_and_the_boxes_found(tmp_path):
    names = ("dark", "bright")
    data = boxes.with_boxes(train=squares(96, 0), test=squares(24, 1), names=names)
    config = kd_jax.base()
    config.task.name = "tasks.detect.task"
    config.prepare = dict(name="data.moved_boxes.moved", kwargs=dict(flip=True, shift=3))
    config.terms = {name: {"weight": 1.0} for name in ("quality", "giou", "dfl")}
    config.teacher.model.name, config.baseline, config.report = "", False, False
    detector = dict(widths=(8, 8, 12), pyramid=8, bins=6)
    config.student.model = dict(name="models.detection.dense.detector", kwargs=detector)
    config.train.update(dict(batch_size=16, steps=150, optimizer=dict(name="adamw", learning_rate=0.01)))
    config.mesh.axes.data = 1
    results = kd_jax.run(config, tmp_path / "run", data=data)
    measured = results["models"]["student"]["last"]["test"]
    assert measured["ap50"] > 0.6 and measured["iou"] > 0.6
    student = kd_jax.load(tmp_path / "run")
    assert student.classes == ["dark", "bright"]
    images, _ = data.test.in_memory()
    answer = student.predict(images)
    again = average_precision({**answer, "objects": data.test.labels}, len(names))
    assert again["ap"] == pytest.approx(measured["ap"], abs=1e-3)
    first = data.test.labels[:, 0]
    files = export(
        student, ["stablehlo", "safetensors"], tmp_path / "files", Examples({"image": images}), measure=False
    )
    assert all(entry["parity"]["share_equal"] > 0.99 for entry in files)  # boxes, scores and classes of a picture
    best = np.asarray(overlaps(answer["boxes"], np.broadcast_to(first[:, None, :4], answer["boxes"].shape))).max(1)
    assert np.median(best) > 0.6


def test_pictures_in_coco_s_form_are_learned_by_the_command_and_boxes_are_those_of_the_file(tmp_path):
    """64 x 48 pixels in the files, 32 x 32 in the network: what is predicted of a file is in the pixels of the file."""
    for split, count in (("train", 64), ("test", 16)):
        made = coco_squares(count, seed=len(split))
        write(tmp_path / "mine" / split / "_annotations.coco.json", made, tmp_path / "mine" / split)
    line = [sys.executable, str(ROOT / "launch.py"), "--config=configs/detection.py:ld,coco,tiny", "--workdir=run"]
    line += [f"--config.data.directory={tmp_path / 'mine'}", "--config.data.image_size=32", "--noconfig.baseline"]
    line += ["--config.train.steps=120", "--config.teacher.train.steps=20", "--config.eval_every=120"]
    line += ["--noconfig.report"]
    line += ["--config.data.eval_limit=0", "--config.prepare.kwargs.shift=2"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    student = kd_jax.load(tmp_path / "run")
    assert student.classes == ["cat", "dog"] and student.info["input"]["shape"] == [32, 32, 3]
    files = [str(tmp_path / "mine" / "test" / f"{i}.png") for i in range(16)]
    predict.predict_files(str(tmp_path / "run"), files, str(tmp_path / "found.jsonl"))
    answers = [json.loads(text)["prediction"] for text in (tmp_path / "found.jsonl").read_text().splitlines()]
    best = np.array([answer["boxes"][0] for answer in answers])
    true = np.array([one["bbox"] for one in made["annotations"]])
    true[:, 2:] += true[:, :2]
    assert np.median(np.asarray(overlaps(best, true))) > 0.6


def test_a_cached_detector_teaches_as_the_detector_itself(tmp_path):
    """Its answers are three arrays; they are stored once, exactly, and are read where the config names their folder."""
    scored = []
    for cache in ("auto", ""):
        config = config_module("detection").get_config("ld,tiny")
        config.baseline = config.report = False
        config.data.limit, config.data.eval_limit = 64, 16
        config.teacher.workdir, config.teacher.cache.directory = str(tmp_path / "teacher"), cache
        models = kd_jax.run(config, tmp_path / f"run{cache}")["models"]
        scored += [[models[name]["last"]["test"]["nll"] for name in ("teacher", "student")]]
    np.testing.assert_allclose(*scored, rtol=1e-5)
    (folder,) = (tmp_path / "teacher" / "cache").iterdir()
    with pytest.raises(ValueError, match="answers of several arrays.*name the folder as config.teacher.cache"):
        kd_jax.from_answers(path=folder)
    config.teacher.cache.update({"directory": "auto", "k": 3})
    with pytest.raises(ValueError, match="teacher.cache.k=3 is of rows of logits, and this teacher answers"):
        kd_jax.run(config, tmp_path / "few")
