"""From a config's terms to Terms: names, schedules, memories, and errors that say what was probably meant."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from kd_jax.config import compose, part, term
from kd_jax.config.knowledge import make_terms
from kd_jax.core.terms import options_of, term_value
from kd_jax.losses import response
from kd_jax.types import Memory, Outputs


def kd(**changes):
    fields = term("losses.response.kd_loss", ("student.logits",), ("teacher.logits",), kwargs={"temperature": 4.0})
    return {"kd": {**fields, **changes}}


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of the user's own, on the path."""
    code = """
        import jax.numpy as jnp
        from kd_jax.types import Memory

        def own_loss(student, teacher, *, power=2.0, where=None):
            return jnp.mean(jnp.abs(student - teacher) ** power, -1)

        def halves(total_steps):
            return lambda step: jnp.where(step < total_steps // 2, 1.0, 0.5)

        def counter(examples, *, name, start=0):
            return Memory({"seen": jnp.full((examples,), start)}, lambda memory, inputs, context: memory)
    """
    (tmp_path / "my_distillation.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_distillation"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (kd(fn="losses.response.kd_los"), r"'losses.response.kd_los'.*Did you mean 'kd_loss'"),
        (kd(fn="losses.respons.kd_loss"), r"no module 'kd_jax.losses.respons'.*Did you mean 'response'"),
        (kd(fn="no_such_package:loss"), r"no module 'no_such_package'. Is it installed and on the path"),
        (kd(kwargs={"temprature": 2.0}), r"kd_loss' takes no argument 'temprature'. Did you mean 'temperature'"),
        (kd(options={"temprature": "extra.t"}), r"takes no argument 'temprature'. Did you mean 'temperature'"),
        (kd(connector=part("models.connectors.conv1_1")), r"conv1_1'.*Did you mean 'conv1x1'"),
        (kd(connector=part("models.connectors.conv1x1", nrom=True)), r"takes no argument 'nrom'. Did you mean 'norm'"),
        (kd(schedule=part("core.schedules.warmpu", fraction=0.1)), r"no 'warmpu'. Did you mean 'warmup'"),
        (
            kd(schedule=part("core.schedules.warmup", fractoin=0.1)),
            r"takes no argument 'fractoin'. Did you mean 'fraction'",
        ),
        (kd(schedule=part("optax:linear_schedul")), r"no 'linear_schedul'. Did you mean 'linear_schedule'"),
        (kd(kwargs={"temperature": part("core.schedules.cosin")}), r"no 'cosin'. Did you mean 'cosine'"),
        (kd(memory=part("losses.composed.contrastiv_memory")), r"Did you mean 'contrastive_memory'"),
        (kd(memory=part("losses.composed.contrastive_memory", widht=8)), r"argument 'widht'. Did you mean 'width'"),
        (kd(wieght=1.0), r"Term 'kd' has no field 'wieght'. Did you mean 'weight'"),
        ({"kd": {"fn": "losses.response.kd_loss", "kwargs": {}}}, r"Term 'kd' lacks inputs: fn is a loss"),
        ({"kd": {"inputs": ("student.logits",)}}, r"Term 'kd' lacks fn"),
        ({"my@kd": kd()["kd"]}, r"Term 'my@kd': the name of a term is letters, digits, _ and -"),
        (kd(inputs="student.logits"), r"Term 'kd': inputs are several paths, \('student.logits',\), not one string"),
        ({"kd": "losses.response.kd_loss"}, r"Term 'kd' is 'losses.response.kd_loss', not a mapping such as"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_near_one(fields, message):
    with pytest.raises(ValueError, match=message):
        make_terms(ConfigDict(fields), 10, 10)


def test_a_weight_schedule_multiplies_the_weight_and_knows_the_length_of_the_run():
    fields = kd(weight=3.0, schedule=part("core.schedules.warmup", fraction=0.5))
    for steps in (40, 1000):
        weight = make_terms(ConfigDict(fields), steps)["kd"].weight
        assert [float(weight(jnp.int32(s))) for s in (0, steps // 4, steps // 2, steps)] == [0.0, 1.5, 3.0, 3.0]
    assert make_terms(kd(weight=3))["kd"].weight == 3.0  # a float, so that it is traced


def test_schedules_of_arguments_are_evaluated_at_the_step():
    temperature = part("core.schedules.cosine", start=8.0, end=2.0)
    fields = kd(kwargs={"temperature": temperature}, weight=2.0, schedule=part("core.schedules.until", fraction=0.6))
    made = make_terms(ConfigDict(fields), 100)["kd"]
    for step, expected in ((0, (2.0, 8.0)), (50, (2.0, 5.0)), (100, (0.0, 2.0))):
        weight, kwargs = jax.jit(lambda s, made=made: options_of(made, {"kwargs": {}}, s))(jnp.int32(step))
        np.testing.assert_allclose((weight, kwargs["temperature"]), expected, rtol=1e-6)


def test_a_schedule_of_optax_counts_steps():
    linear = part("optax:linear_schedule", init_value=1.0, end_value=0.0, transition_steps=10)
    weight = make_terms(ConfigDict(kd(weight=4.0, schedule=linear)), 1000)["kd"].weight
    np.testing.assert_allclose([weight(jnp.int32(s)) for s in (0, 5, 10, 500)], [4.0, 2.0, 0.0, 0.0])


def test_total_steps_may_be_given():
    fields = kd(schedule=part("core.schedules.warmup", fraction=1.0, total_steps=4))
    assert float(make_terms(fields, 1000)["kd"].weight(jnp.int32(2))) == 0.5


def test_a_loss_a_schedule_and_a_memory_of_the_users_own(own_module):
    fields = term(
        f"{own_module}:own_loss",
        ("student.logits",),
        ("teacher.logits",),
        kwargs={"power": 1.0},
        weight=2.0,
        schedule=part(f"{own_module}:halves"),
        memory=part(f"{own_module}:counter", start=3),
    )
    made = make_terms(ConfigDict({"mine": fields}), total_steps=10, examples=5)["mine"]
    context = {"student": Outputs(jnp.array([[1.0, 3.0]])), "teacher": Outputs(jnp.array([[0.0, 0.0]]))}
    total, count, _ = term_value("mine", made, context, options_of(made, {"kwargs": {}}, jnp.int32(0))[1])
    assert (float(total), float(count)) == (2.0, 1.0)
    assert [float(made.weight(jnp.int32(s))) for s in (4, 5)] == [2.0, 1.0]
    assert isinstance(made.memory, Memory)
    np.testing.assert_array_equal(made.memory.first["seen"], [3] * 5)
    with pytest.raises(ValueError, match="my_distillation.*Did you mean 'own_loss'"):
        make_terms({"mine": {**fields, "fn": f"{own_module}:own_los"}})
    with pytest.raises(ValueError, match="takes no argument 'powr'. Did you mean 'power'"):
        make_terms({"mine": {**fields, "kwargs": {"powr": 1.0}}})


@pytest.mark.parametrize("make", [dict, ConfigDict])
def test_a_loss_and_its_paths_are_enough(make):
    short = make({"fn": "losses.response.kd_loss", "inputs": ["student.logits"], "targets": ["teacher.logits"]})
    made = make_terms({"mine": short})["mine"]
    assert (
        made == make_terms({"mine": term("losses.response.kd_loss", ("student.logits",), ("teacher.logits",))})["mine"]
    )
    assert made.weight == 1.0 and made.inputs == ("student.logits",) and made.kwargs == {} and made.where is None
    warm = {**short, "schedule": {"name": "core.schedules.until", "kwargs": {"fraction": 0.5}}, "weight": 2}
    assert [float(make_terms({"mine": warm}, 10)["mine"].weight(jnp.int32(s))) for s in (0, 9)] == [2.0, 0.0]
    connected = {**short, "connector": {"name": "models.connectors.auto"}}
    assert make_terms({"mine": connected})["mine"].connector is not None


def test_a_function_stands_for_its_name():
    made = make_terms(kd(fn=response.jsd_loss, kwargs={"beta": 0.5}))["kd"]
    assert made.fn is response.jsd_loss and made.kwargs == {"beta": 0.5}
    assert made.connector is None and made.memory is None and made.where is None


def test_a_term_comes_after_the_one_whose_connector_it_reads():
    names = [*make_terms(ConfigDict(compose("ft")), 10)]  # a ConfigDict sorts: ce, ft, ft_paraphraser
    assert names.index("ft_paraphraser") < names.index("ft")
