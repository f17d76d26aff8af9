"""Small tables in the files' own forms, of people and diamonds that do not exist: the real ones need packages."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np


def write(path: Path, columns: dict[str, np.ndarray]) -> Path:
    """Writes columns as .csv, or as the one file of a .zip."""
    rows = [[*columns], *(list(map(str, row)) for row in zip(*columns.values(), strict=True))]
    text = "\n".join(",".join(f'"{c}"' if "," in c else c for c in row) for row in rows) + "\n"
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("table.csv", text)
    else:
        path.write_text(text)
    return path


def read_back(path: Path) -> list[list[str]]:
    with path.open() as file:
        return [*csv.reader(file)]


def adult(path: Path, n: int = 400, seed: int = 0) -> Path:
    """Writes a table with the columns of Adult that the reader asks for; men of it earn more."""
    rng = np.random.default_rng(seed)
    age, hours, male, white = rng.integers(17, 80, n), rng.integers(20, 60, n), *(rng.random((2, n)) < [[0.6], [0.8]])
    rich = age / 80 + hours / 60 + 0.6 * male + rng.normal(0, 0.2, n) > 1.9
    columns = {"age": age, "fnlwgt": rng.integers(1, 9, n), "hours-per-week": hours}
    pairs = {
        "workclass": ("Private", "State-gov"),
        "education": ("10th", "Masters"),
        "marital-status": ("Divorced", "Widowed"),
        "occupation": ("Sales", "Tech-support"),
        "relationship": ("Husband", "Wife"),
        "native-country": ("Cuba", "Peru"),
    }
    chosen = {name: (rng.integers(0, 2, n), levels) for name, levels in pairs.items()}
    chosen |= {
        "race": (white.astype(int), ("Black", "White")),
        "sex": (male.astype(int), ("Female", "Male")),
        "salary": (rich.astype(int), ("<=50K", ">50K")),
    }
    for name, (which, levels) in chosen.items():
        columns |= {f"{name}_{level}": (which == i).astype(int) for i, level in enumerate(levels)}
    return write(path, columns)


def compas(path: Path, n: int = 400, seed: int = 0) -> Path:
    """Writes a table with the columns of COMPAS that the reader asks for, beside two that it leaves out."""
    rng = np.random.default_rng(seed)
    young, felony, sex, race = (rng.random((4, n)) < 0.5).astype(int)
    priors = rng.poisson(2 + 2 * young)
    again = (priors + rng.normal(0, 1, n) > 3).astype(int)
    columns = {"sex": sex, "age-num": 45 - 20 * young, "race": race, "juv-fel-count": rng.integers(0, 2, n)}
    columns |= {"juv-misd-count": rng.integers(0, 2, n), "juv-other-count": np.zeros(n, int), "priors-count": priors}
    columns |= {"decile-score": rng.integers(1, 10, n), "two-year-recid": again}
    columns |= {"age-cat_Less than 25": young, "age-cat_25 - 45": 1 - young}
    columns |= {"c-charge-degree_F": felony, "c-charge-degree_M": 1 - felony, "score-text_High": again}
    return write(path, columns)


def diamonds(path: Path, n: int = 400, seed: int = 0) -> Path:
    """Writes a table with the columns of the diamonds; a heavier one of a better cut costs more."""
    rng = np.random.default_rng(seed)
    carat, cut = rng.uniform(0.2, 2.0, n).round(2), rng.integers(0, 2, n)
    price = (4000 * carat**1.7 * (1 + 0.2 * cut) * np.exp(rng.normal(0, 0.1, n))).round()
    columns = {"carat": carat, "cut": np.array(["Fair", "Ideal"])[cut], "color": rng.choice(["D", "J"], n)}
    return write(
        path, {**columns, "clarity": rng.choice(["IF", "SI1"], n), "depth": rng.uniform(55, 65, n), "price": price}
    )
