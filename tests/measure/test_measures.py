"""From config.measure to results.json and the report."""

import json

import numpy as np
import pytest
from mistakes import MLP, config, run

import kd_jax
from kd_jax import measure
from kd_jax.measure.choose import defaults, measure_of, names_of, options_of
from kd_jax.measure.corruption_kinds import KINDS


def test_names_as_the_command_line_and_python_give_them():
    assert names_of(("a,b", "c", "a")) == ("a", "b", "c")
    assert names_of(("",)) == names_of(()) == ()


@pytest.mark.parametrize("name", measure.NAMES)
def test_the_config_has_the_options_of_every_measure(name):
    made = measure_of(name)
    assert dict(kd_jax.base().measure_kwargs[name]) == options_of(made) == defaults()[name]


def test_cheap_ones_are_measured_with_the_report_and_none_leaves_them_out(tmp_path):
    results = run(tmp_path, config(report=True, examples=0, baseline=True))
    cheap = {name for name in measure.NAMES if measure_of(name).cheap}
    for role in ("teacher", "baseline", "student"):
        assert "selective" in results["models"][role]["measures"]
        assert {*results["models"][role]["measures"]} <= cheap
    assert sum(results["measured_seconds"].values()) < results["wall_seconds"]
    assert results == json.loads((tmp_path / "run" / "results.json").read_text())
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What else was measured" in page and "surest 80%" in page
    # the same networks again, without the measures: nothing is trained
    results = run(tmp_path, config(report=True, examples=0, baseline=True, measure=("none",)))
    assert not any("measures" in model for model in results["models"].values())


def pictures(n, seed):
    """uint8 pictures [n, 8, 8, 1] of four classes: a quarter that is a little brighter."""
    rng, labels = np.random.default_rng(seed), np.arange(n) % 4
    images = rng.integers(0, 120, (n, 8, 8, 1))
    for image, label in zip(images, labels, strict=True):
        image[4 * (label // 2) :][:4, 4 * (label % 2) :][:, :4] += 40
    return images.astype(np.uint8), labels


def test_all_measures_of_pictures_on_one_road(tmp_path):
    data = kd_jax.from_arrays(train=pictures(96, 0), test=pictures(32, 1), validation=0.25)
    made = config(report=True, examples=0, baseline=True, steps=12, measure=(",".join(measure.NAMES),))
    results = run(tmp_path, made, data=data)
    teacher, baseline, student = (results["models"][role]["measures"] for role in ("teacher", "baseline", "student"))
    assert {*student} >= {"calibration", "selective", "ood", "corruptions", "attacks", "cka", "sharpness", "energy"}
    assert baseline["corruptions"]["mce"] == pytest.approx(1) and "cka" not in teacher
    assert {*student["corruptions"]["errors"]} == {*KINDS}
    under = [student["attacks"]["pgd_by_eps"][size] for size in ("1.0", "2.0", "4.0", "8.0")]
    assert under == sorted(under, reverse=True) and under[-1] == student["attacks"]["pgd"]
    assert student["attacks"]["pgd"] <= results["models"]["student"]["last"]["test"]["accuracy"]
    assert student["sharpness"]["sharpness"] > 0 < student["sharpness"]["hessian"]
    assert {*student["cka"]["layers"]} == {"embedding", "head"} == {*student["cka"]["layers"]["head"]}
    assert student["energy"]["microjoules"] < teacher["energy"]["microjoules"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(title in page for title in ("Accuracy on corrupted pictures", "Accuracy under attack", "(CKA)"))


def test_a_loaded_student_is_measured_as_in_its_run(tmp_path):
    (x, y), test = pictures(96, 0), pictures(32, 1)
    data = kd_jax.from_arrays(train=(x[24:], y[24:]), test=test, validation=(x[:24], y[:24]))
    made = config(measure=("calibration,attacks,ood",), measure_kwargs__attacks__eps=(4.0,), steps=6)
    results = run(tmp_path, made, data=data)
    student = kd_jax.load(tmp_path / "run", model=MLP(), which="last")
    measured = student.measure("calibration,attacks,ood", test, validation=(x[:24], y[:24]), attacks={"eps": (4.0,)})
    wanted = results["models"]["student"]["measures"]
    assert measured["student"].keys() == wanted.keys()
    for name, metrics in measured["student"].items():
        assert metrics.pop("fgsm_by_eps", {}) == wanted[name].pop("fgsm_by_eps", {})
        assert metrics.pop("pgd_by_eps", {}) == wanted[name].pop("pgd_by_eps", {})
        assert metrics == pytest.approx(wanted[name], rel=1e-4)
    alike = student.measure(["cka"], test, others={"teacher": student})["student"]["cka"]
    assert alike["layers"]["head"]["head"] == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="there is no measure 'cca'. Did you mean 'cka'"):
        student.measure("cca", test)


def test_features_have_the_measures_that_are_not_of_pictures(tmp_path):
    results = run(tmp_path, config(measure=("ood,cka,sharpness",), steps=3))
    assert {*results["models"]["student"]["measures"]} == {"ood", "cka", "sharpness"}


def test_without_a_report_what_is_named_is_measured(tmp_path):
    results = run(tmp_path, config(measure=("selective",), measure_kwargs__selective__coverage=0.5))
    student = results["models"]["student"]
    assert {*student["measures"]} == {"selective"}
    assert results["sections"][0]["rows"][1][0] == "accuracy on the surest 50%"
