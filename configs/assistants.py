"""A large gap in capacity, bridged by assistants of sizes in between, on digits.

python launch.py --config=configs/assistants.py[:VARIANT,tiny]

Teacher 23,700 parameters, assistants 2,700 and 470, student 152. Mirzadeh et al. 2019 (TAKD, arXiv 1902.03393); dense:
Son et al. 2020 (DGKD, arXiv 2009.08825). Each network learns for as many steps as the student and the baseline.
Measured on 3 seeds (test accuracy and its standard deviation over them; docs/schemes.md): student alone 49.1 +- 5.9,
direct 63.1 +- 7.7, one_assistant 63.8 +- 4.3, two_assistants 60.6 +- 1.3, dense 62.5 +- 5.7. So the teacher helps, and
assistants are within noise of teaching directly here. About 20 seconds on one core.

direct           teacher -> student; the default
one_assistant    teacher -> large -> student
two_assistants   teacher -> large -> small -> student
dense            as two_assistants, each learning from all before it, one of them left out of a step at random
"""

from ml_collections import ConfigDict

from kd_jax.config import compose, finish, parse, part, role, small_digits

VARIANTS = ("direct", "one_assistant", "two_assistants", "dense")
CHAINS = {
    "direct": (),
    "one_assistant": ("large",),
    "two_assistants": ("large", "small"),
    "dense": ("large", "small"),
}
WIDTHS = {"large": (16, 16), "small": (6, 6)}


def get_config(arg: str = "") -> ConfigDict:
    config = small_digits()
    variant = parse(arg, variants=VARIANTS)
    config.student.model.kwargs = ConfigDict(dict(widths=(2, 4)))
    config.terms = ConfigDict(compose("response"))
    chain = CHAINS[variant.variant]
    for name in chain:
        config.roles[name] = ConfigDict(role("models.vision.cnn.cnn", widths=WIDTHS[name]))
    options = dict(dense=True, drop=0.25) if variant.variant == "dense" else {}
    config.scheme = ConfigDict(part("schemes.assistants.build", chain=chain, **options))
    return finish(config, variant)
