"""A stream of five tasks, learned one after the other without the data of those before, on digits.

python launch.py --config=configs/lifelong.py[:METHOD,SCENARIO,tiny]

METHOD    exemplars  LwF and 5 exemplars a class, chosen by herding, replayed in every step; the default
          finetune   the cross-entropy on the task at hand: the lower limit
          lwf        learning without forgetting (arXiv 1606.09282): the student of the task before teaches its answers
          l2kd       exemplars, and an expert learns each task first and teaches it (arXiv 2010.02123)
          joint      all tasks so far at hand: the upper limit
SCENARIO  class      two new digits a task, told from all seen so far; the default
          task       two new digits a task, and it is known which two come into question
          domain     the ten digits moved by 0, 1, 3, 4, 6 of 8 columns, wrapped around

A multilayer perceptron of 9,000 parameters, 400 steps a task, all labels. There is no teacher, and no baseline: joint,
which goes through the same stages, is the limit to compare with. The report has the matrix of accuracies and what
follows from it. About 4 to 17 seconds on a core that others shared. Average test accuracy (forgetting) in the end, mean
of seeds 0 and 1, in %:

            finetune     lwf          exemplars    l2kd         joint
class       19.7 (99.7)  19.7 (99.5)  77.6 (26.8)  75.1 (30.2)  94.0 (3.8)
task        86.6 (16.2)  98.3 (1.4)   99.0 (0.0)   98.3 (1.4)   98.5 (1.2)     finetune: seeds 0, 1, 2
domain      57.0 (46.7)  66.5 (22.8)  88.5 (-1.6)  86.0 (5.7)   90.0 (1.9)

Without exemplars LwF does nothing for classes that have to be told from those of other tasks, which is known (van de
Ven, Tolias, 2019, arXiv 1904.07734), and much where the task is known. The expert, a twin of the student, did not help
beside exemplars. All weights are 1, nothing was tuned.
"""

from ml_collections import ConfigDict

from kd_jax.config import Terms, finish, parse, part, small_digits, term

METHODS = ("exemplars", "finetune", "lwf", "l2kd", "joint")
SCENARIOS = ("class", "task", "domain")
VARIANTS = tuple(f"{method},{scenario}" for scenario in SCENARIOS for method in METHODS)


def labels(network: str, label: str = "batch.label", where: str = "", rivals: str = "extra.rivals", **fields) -> dict:
    """Cross-entropy over the classes that are told apart."""
    fn, options = "losses.lifelong.rival_cross_entropy_loss", {"rivals": rivals}
    return term(fn, (f"{network}.logits",), (label,), options=options, where=where, **fields)


def answers(network: str, teacher: str, groups: str = "extra.old", where: str = "", **fields) -> dict:
    """Returns distillation of what `teacher` answers on the classes of each group."""
    fn, kwargs = "losses.lifelong.grouped_kd_loss", {"temperature": 2.0}
    logits = (f"{network}.logits",), (f"{teacher}.logits",)
    return term(fn, *logits, options={"groups": groups}, kwargs=kwargs, where=where, **fields)


def terms_of(method: str) -> Terms:
    terms = {"ce": labels("student")}
    if method in ("lwf", "exemplars", "l2kd"):
        terms["lwf"] = answers("student", "previous")
    if method in ("exemplars", "l2kd"):
        terms["replay"] = labels("replay", "extra.replay.label", "extra.replay.held")
        terms["recall"] = answers("replay", "recalled", where="extra.replay.held")
    if method == "l2kd":
        terms["expert_ce"] = labels("expert", rivals="extra.mates")
        terms["expert_kd"] = answers("student", "expert", "extra.current")
    return terms


def get_config(arg: str = "") -> ConfigDict:
    config = small_digits()
    variant = parse(arg, variants=METHODS, data=SCENARIOS)
    method, scenario = variant.variant, variant.data
    config.data.labels = 0
    config.splits = ConfigDict(part(f"data.task_streams.{'domains' if scenario == 'domain' else 'classes'}", tasks=5))
    config.student.model = dict(name="models.mlp.mlp", kwargs=dict(widths=(64, 64)))
    config.teacher.model.name, config.baseline = "", False
    config.train.update(dict(steps=2000, batch_size=32))
    config.train.optimizer.learning_rate = 0.05
    config.terms = ConfigDict(terms_of(method))
    options = dict(memory=5, replay=32) if method in ("exemplars", "l2kd") else {}
    config.scheme = ConfigDict(part("schemes.lifelong.build", scenario=scenario, joint=method == "joint", **options))
    return finish(config, variant, steps=10, tiny=dict(data=dict(limit=0)))
