"""Measures that there are not, and those that do not fit the run."""

from mistakes import Mistake, check, each, wrong

ROWS = [
    Mistake(
        "a measure that there is not",
        "config.measure: there is no measure 'selectiv'. Did you mean 'selective'?",
        wrong(measure=("selectiv",)),
    ),
    Mistake(
        "none and another",
        "config.measure='none,selective': 'none' is for no measure at all",
        wrong(measure=("none", "selective")),
    ),
    Mistake(
        "an option out of range",
        "config.measure_kwargs.selective.coverage is 2.0; for selective it must be in (0, 1].",
        wrong(measure_kwargs__selective__coverage=2.0),
    ),
    Mistake(
        "an option that there is not",
        "'selective' takes no argument 'coverag'. Did you mean 'coverage'?",
        wrong(measure_kwargs__selective__coverag=0.5),
    ),
    Mistake(
        "a measure that is no Measure",
        "config.measure: 'numpy:mean' is a …, not a kd_jax.measure.subject.Measure",
        wrong(measure=("numpy:mean",)),
    ),
]


@each(ROWS)
def test_measures(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
