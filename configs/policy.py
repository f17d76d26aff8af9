"""Policies: a PPO teacher, trained here, into a student of 43 numbers (Acrobot) or a tenth of its size (MinAtar).

pip install gymnax
python launch.py --config=configs/policy.py[:VARIANT,cartpole,breakout,tiny]

The teacher learns by PPO (Schulman et al. 2017, arXiv 1707.06347) in 64 environments at once; the student alone does
the same, as long as it is taught. Scored is the return of 128 episodes that begin from seeds of their own, each action
the likeliest one.

dagger             KL to the teacher in states that both visit, the student more and more (DAgger: Ross, Gordon, Bagnell
                   2010, arXiv 1011.0686); the default
offline            KL in states that the teacher visits (policy distillation: Rusu et al. 2015, arXiv 1511.06295)
sharp              the same with the teacher at temperature 0.1; Rusu's 0.01 is of action values, ours are log-odds
student            KL in states that the student visits
two_tasks          one student in Acrobot and CartPole, from a teacher of each (Rusu et al. 2015), actors as in dagger
value              dagger, and the squared error to the teacher's value of the state
"""

from ml_collections import ConfigDict

from kd_jax.config import base, finish, parse, part, term, training

VARIANTS = ("dagger", "offline", "sharp", "student", "two_tasks", "value")
ACTORS = {"offline": "teacher", "sharp": "teacher", "student": "student"}  # the other variants: both


def adam(batch_size: int, steps: int, learning_rate: float) -> ConfigDict:
    optimizer = dict(name="adam", learning_rate=learning_rate, weight_decay=0.0, clip_norm=0.5, schedule="linear")
    return training(batch_size=batch_size, steps=steps, optimizer=optimizer)


def get_config(arg: str = "") -> ConfigDict:
    variant = parse(arg, variants=VARIANTS, flags=("cartpole", "breakout"))
    config = base()
    config.data.name = "gymnax:Acrobot-v1"
    config.task = ConfigDict(part("tasks.control.task"))
    value = variant.variant == "value"
    config.teacher.model = dict(name="models.policies.policy", kwargs=dict(widths=(64, 64), value=True))
    config.student.model = dict(name="models.policies.policy", kwargs=dict(widths=(4,), value=value))
    config.teacher.train, config.train = adam(512, 1600, 1e-3), adam(512, 1600, 1e-2)
    config.train.optimizer.clip_norm = 0.0
    config.teacher.scheme = ConfigDict(part("schemes.experience.ppo", environments=16, length=128))
    if "cartpole" in variant.flags:
        config.data.name = "gymnax:CartPole-v1"
    if "breakout" in variant.flags:
        breakout(config, value)
    config.scheme = ConfigDict(part("schemes.experience.distill", actor=ACTORS.get(variant.variant, "mixed")))
    paths = ("student.logits.policy" if value else "student.logits",), ("teacher.logits.policy",)
    temperature = 0.1 if variant.variant == "sharp" else 1.0
    config.terms.policy = ConfigDict(
        term("losses.policy.policy_kl_loss", *paths, weight=1.0, kwargs=dict(temperature=temperature))
    )
    if value:
        paths = ("student.logits.value",), ("teacher.logits.value",)
        config.terms.value = ConfigDict(term("tasks.control.value_distance", *paths, weight=0.01))
    if variant.variant == "two_tasks":
        two_tasks(config)
    config.log_every, config.eval_every = 100, 100
    return finish(config, variant, tiny=TINY)


def breakout(config: ConfigDict, value: bool) -> None:
    """Sets MinAtar Breakout, 10 x 10 cells: convolutions, and more steps."""
    config.data.name = "gymnax:Breakout-MinAtar"
    config.teacher.model.kwargs = dict(channels=(16,), widths=(128,), value=True)
    config.student.model.kwargs = dict(channels=(4,), widths=(48,), value=value)
    config.teacher.scheme.kwargs.environments = 64
    config.teacher.train, config.train = adam(1024, 4000, 5e-3), adam(512, 2000, 3e-3)


def two_tasks(config: ConfigDict) -> None:
    """Sets two environments in one form, a teacher trained in each, and a student that has both to learn."""
    both = "gymnax:Acrobot-v1+CartPole-v1"
    config.data.name = both
    config.teachers.cartpole = config.teacher.copy_and_resolve_references()
    for number, teacher in enumerate((config.teacher, config.teachers.cartpole)):
        teacher.data.name, teacher.seed = f"{both}#{number}", number
    config.student.model.kwargs.widths = (16,)
    config.scheme.kwargs.teachers = ("teacher", "cartpole")
    acrobot = config.terms.policy
    cartpole = acrobot.copy_and_resolve_references()
    cartpole.targets = ("cartpole.logits.policy",)
    acrobot.where, cartpole.where = "batch.task0", "batch.task1"
    config.terms = ConfigDict(dict(acrobot=acrobot, cartpole=cartpole))


TINY = dict(
    teacher=dict(scheme=dict(kwargs=dict(environments=8, length=4, epochs=2))),
    scheme=dict(kwargs=dict(environments=8, length=2, capacity=64)),
)
