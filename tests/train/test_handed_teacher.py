"""Teachers that the caller has: without training fields, of other classes, of other heads."""

import jax
import jax.numpy as jnp
import optax
import pytest
import token_toy
from flax import nnx
from mistakes import CLASSES, FEATURES, MLP, config, run

import kd_jax
from kd_jax.config import supervised, term, training
from kd_jax.models.language.decoder_families import llama
from kd_jax.train.run import jobs_of

X = jnp.zeros((1, FEATURES))


class NnxMlp(nnx.Module):
    def __init__(self, rngs):
        self.embedding, self.head = nnx.Linear(FEATURES, 8, rngs=rngs), nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.embedding(x)))


def test_a_handed_teacher_needs_no_training_fields(tmp_path):
    variables = MLP(16).init(jax.random.key(0), X)
    made = config(teacher__train__steps=0)
    first = run(tmp_path / "pair", made, teacher_variables=(variables["params"], {}))
    again = run(tmp_path / "dict", made, teacher_variables=variables)
    scores = [results["models"]["student"]["last"]["test"] for results in (first, again)]
    assert scores[0] == scores[1]


def test_a_handed_nnx_teacher(tmp_path):
    module = NnxMlp(nnx.Rngs(1))
    made = config(teacher__train__steps=0)
    model = kd_jax.NNXModel(lambda rngs: NnxMlp(rngs))
    results = run(tmp_path, made, teacher=model, teacher_variables=module)
    assert results["models"]["teacher"]["name"] == "NnxMlp"


def test_a_teacher_of_other_classes_teaches_relations(tmp_path, capsys):
    teacher = MLP(16, classes=24)
    handed = dict(teacher=teacher, teacher_variables=teacher.init(jax.random.key(0), X))
    results = run(tmp_path / "rkd", config("rkd"), **handed)
    last = results["models"]["student"]["last"]["test"]
    assert "agreement" not in last and "kl" not in last and last["accuracy"] is not None
    assert "teacher: not scored: it has 24 classes, arrays has 4" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"Term 'kd' \(kd_loss\).*must have the same shape"):
        run(tmp_path / "kd", config("kd"), **handed)


def test_heads_may_be_padded(tmp_path):
    sides = [(f"{side}.features:final", f"params.{side}.embed") for side in ("student", "teacher")]
    kwargs = {"vocabulary": "slice", "temperature": 1.0}
    kd = term("losses.vocabulary.fused_kd_loss", *sides, where="batch.labelled", kwargs=kwargs)
    made = config({**supervised(0.5), "kd": kd})
    made.student.inputs = made.teacher.inputs = ("batch.tokens", "batch.segments")
    size = token_toy.VOCABULARY
    networks = {"student": llama(size + 2, 8, 1, 2, tied=True), "teacher": llama(size + 5, 8, 1, 2, tied=True)}
    results = run(tmp_path, made, data=token_toy.splits(), **networks)
    assert results["models"]["student"]["last"]["test"]["nll"] > 0
    networks["student"] = llama(size - 1, 8, 1, 2, tied=True)
    with pytest.raises(ValueError, match="The student has 6 classes, letters has 7"):
        run(tmp_path / "small", made, data=token_toy.splits(), **networks)


def test_the_optimizer_of_the_student_is_not_the_teachers(tmp_path):
    made = config()
    made.optimizers = {"student": training(optimizer=dict(name="adam")).optimizer}
    networks = {"student": kd_jax.LinenModel(MLP()), "teacher": kd_jax.LinenModel(MLP(16))}
    x = jnp.zeros((8, FEATURES))
    arrays = kd_jax.from_arrays(train=(x, jnp.arange(8) % 4), test=(x, jnp.arange(8) % 4))
    jobs, _ = jobs_of(made, tmp_path, networks, arrays)
    states = {
        name: jax.eval_shape(jobs[name].scheme.stages[0].phases[0].tx.init, {"w": x}) for name in ("teacher", "student")
    }
    assert jax.tree.structure(states["teacher"]) != jax.tree.structure(states["student"])


def test_an_nnx_module_brings_its_parameters(tmp_path):
    """As a teacher it answers as it is; as a student it starts where it is, and the module itself is not changed."""
    teacher, student = NnxMlp(nnx.Rngs(1)), NnxMlp(nnx.Rngs(2))
    before = nnx.to_pure_dict(nnx.state(student))
    made = config(teacher__train__steps=0)
    alone = run(tmp_path / "alone", made, teacher=teacher, student=student)["models"]
    handed = run(
        tmp_path / "given", made, teacher=lambda rngs: NnxMlp(rngs), teacher_variables=teacher, student=student
    )
    assert alone["teacher"]["last"] == handed["models"]["teacher"]["last"]
    jax.tree.map(
        lambda a, b: bool((a == b).all()) or pytest.fail("changed"), before, nnx.to_pure_dict(nnx.state(student))
    )
    with pytest.raises(ValueError, match="teacher_variables: other values"):
        run(tmp_path / "alone", made, teacher=NnxMlp(nnx.Rngs(3)), student=student)


def test_a_train_state_of_flax(tmp_path):
    train_state = pytest.importorskip("flax.training.train_state")
    variables = MLP(16).init(jax.random.key(0), X)
    state = train_state.TrainState.create(apply_fn=None, params=variables["params"], tx=optax.sgd(0.1))
    assert_equal = [
        run(tmp_path / name, config(), teacher_variables=handed)["models"]["teacher"]["last"]
        for name, handed in {"state": state, "dict": variables}.items()
    ]
    assert assert_equal[0] == assert_equal[1]


@pytest.mark.parametrize("name", ["bonsai.models.resnet.modeling", "tunix.models.qwen3.model"])
def test_networks_of_nnx_libraries_are_nnx_modules(name):
    """bonsai (github.com/jax-ml/bonsai) and tunix: what as_model takes is any nnx.Module, theirs among them."""
    module = pytest.importorskip(name)
    networks = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, nnx.Module)]
    assert networks


def test_several_teachers_are_handed_over(tmp_path):
    kd = term("losses.ensemble.average_probabilities_loss", ("student.logits",), ("teacher.logits", "second.logits"))
    first, second = NnxMlp(nnx.Rngs(1)), MLP(16)
    teachers = {"second": (second, second.init(jax.random.key(0), X))}
    made = config({**supervised(0.1), "kd": {**kd, "kwargs": {"temperature": 2.0}}})
    results = run(tmp_path, made, teacher=first, teachers=teachers)
    assert [results["models"][n]["name"] for n in ("teacher", "second")] == ["NnxMlp", "MLP"]
    assert not (tmp_path / "run" / "second").exists()
