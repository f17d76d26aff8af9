"""What a finished run measures beside its scores: each file here holds a Measure, by the name that config.measure has.

measure/subject.py says what a measure is given and what it returns, measure/choose.py which of them a run makes.
"""

# Those of the package, in the order of the report; any other is "my_package.module:NAME" of a Measure.
NAMES = (
    *("fit", "groups", "inherited", "calibration", "selective", "ood", "corruptions", "attacks"),
    *("cka", "sharpness", "energy"),
)
