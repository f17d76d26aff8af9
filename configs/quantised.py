"""A student with weights of 8, 4 or 2 bits, taught by a float teacher, on digits.

python launch.py --config=configs/quantised.py[:VARIANT,KNOWLEDGE,tiny]

Mishra, Marr, "Apprentice", 2017, arXiv 1711.05852; Polino, Pascanu, Alistarh, "Model compression via distillation and
quantization", 2018, arXiv 1802.05668. The student has 5,178 parameters and 100 labels; kernels are rounded, the head's
to no less than 8 bits. Beside the student: the same bits without a teacher, and the float student, rounded afterwards.

w8, w4, w2    weights of 8 (the default), 4 or 2 bits from the first step: 5,728, 3,352 and 2,164 bytes, of 20,712
w4a8          weights of 4 bits, and what layers read rounded to 8
progressive   8, 4, then 2 bits, a third of the steps each

One seed, test accuracy: with 2 bits 96.67 %, without a teacher 88.33 %, rounded after training 58.61 %, float 97.50 %.
With 4 bits rounding after training loses nothing (97.78 % either way). On the validation split, progressive ended at
93.89 % where 2 bits from the start had 97.22 %: with equal steps in all, lowering the bits in stages did not help.
"""

from ml_collections import ConfigDict

from kd_jax.config import PRESETS, compose, finish, parse, part, small_digits

VARIANTS = ("w8", "w4", "w2", "w4a8", "progressive")
OPTIONS = {
    "w8": dict(bits=(8,)),
    "w4": dict(bits=(4,)),
    "w2": dict(bits=(2,)),
    "w4a8": dict(bits=(4,), activations=8),
    "progressive": dict(bits=(8, 4, 2)),
}


def get_config(arg: str = "") -> ConfigDict:
    config = small_digits()
    variant = parse(arg, variants=VARIANTS, knowledge=PRESETS)
    config.student.model.kwargs = ConfigDict(dict(widths=(16, 32)))
    config.terms = ConfigDict(compose(variant.knowledge))
    config.scheme = ConfigDict(part("schemes.quantised.build", keep="head/kernel", **OPTIONS[variant.variant]))
    return finish(config, variant)
