"""config.teacher.calibrate: the student learns from the teacher's logits divided by a temperature of validation."""

import numpy as np
import pytest
from mistakes import MLP, Mistake, check, config, data, each, run, wrong

from kd_jax.core.temperature import fit_temperature
from kd_jax.models.host import host_model


def function(x):
    return np.zeros((len(x), 4), np.float32)


def sure(weights):
    """The variables of a teacher that is far too sure of itself."""
    head = {k: 40 * v for k, v in weights["params"]["head"].items()}
    return {"params": {**weights["params"], "head": head}}


def test_the_student_learns_from_the_divided_logits(tmp_path, capsys):
    import jax

    teacher, splits = MLP(16), data()
    variables = sure(teacher.init(jax.random.key(0), np.zeros((1, 6))))
    results = run(tmp_path, config(teacher__calibrate=True), data=splits, teacher_variables=variables)
    held = splits.validation
    logits = np.asarray(teacher.apply(variables, held.images))  # handed over: it sees the raw arrays
    wanted = fit_temperature(logits, held.labels)
    temperature = results["models"]["teacher"]["temperature"]
    assert temperature == pytest.approx(wanted, rel=1e-3) and temperature > 5
    assert f"divided by {temperature:.3g}" in capsys.readouterr().out
    # the same student as of a teacher whose last layer is divided
    divided = {k: v / temperature for k, v in variables["params"]["head"].items()}
    variables = {"params": {**variables["params"], "head": divided}}
    other = run(tmp_path / "other", config(), data=splits, teacher_variables=variables)
    scores = [r["models"]["student"]["last"]["test"] for r in (results, other)]
    assert scores[0]["nll"] == pytest.approx(scores[1]["nll"], rel=1e-5)
    assert scores[0]["kl"] == pytest.approx(scores[1]["kl"], rel=1e-4)


ROWS = [
    Mistake(
        "a temperature with nothing held out",
        "config.teacher.calibrate chooses a temperature on validation, and nothing with a label is held out",
        lambda folder: run(folder, config(teacher__calibrate=True), data=data(validation=0.0)),
    ),
    Mistake(
        "a temperature for stored answers",
        "config.teacher.calibrate=True: the answers of config.teacher.cache.directory are stored before",
        wrong(teacher__calibrate=True, teacher__cache__directory="auto"),
    ),
    Mistake(
        "a temperature for a function",
        "config.teacher.calibrate is of a network of JAX, and the teacher is a function or stored answers",
        lambda folder: run(folder, config(teacher__calibrate=True), teacher=host_model(function, cached=False)),
    ),
]


@each(ROWS)
def test_mistakes(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
