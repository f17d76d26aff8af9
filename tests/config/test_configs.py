"""Every config resolves its names and fits together in shapes; those of the large sets take steps on random images."""

import ast
import importlib.util
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from kd_jax.config import PRESETS, compose, with_four_stages
from kd_jax.config.fields import own_data, settled
from kd_jax.config.files import words_of
from kd_jax.config.knowledge import make_terms
from kd_jax.config.pairs import FOUR_STAGES
from kd_jax.config.presets import SCHEMES
from kd_jax.data.arrays import from_arrays
from kd_jax.data.batches import batch_shapes
from kd_jax.data.load import load
from kd_jax.data.source import Source, Splits
from kd_jax.resolve import resolve
from kd_jax.system.checkpoint import save_tree
from kd_jax.system.parallel import make_mesh
from kd_jax.train import run as train
from kd_jax.train.check import check_job
from kd_jax.train.finish import exported
from kd_jax.train.jobs import make_model, plan

CONFIGS = Path(__file__).parents[2] / "configs"
SHAPES = {"cifar10": (32, 32, 3), "cifar100": (32, 32, 3), "fashion_mnist": (28, 28, 1), "imagenet2012": (224, 224, 3)}
CLASSES = {"cifar100": 100, "imagenet2012": 1000}


def module(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def source_for(config) -> Source:
    """A split of the right shape, without the data; some labels are hidden where the config hides some."""
    name = config.data.name
    shape, classes = SHAPES.get(name, (8, 8, 1)), CLASSES.get(name, 10)
    labels = np.where((np.arange(8) % 2 == 0) | (config.data.labels == 0), 0, -1)
    fill = (0.5,) * shape[-1]
    images = np.zeros((8, *shape), np.uint8)
    return Source(name, "train", classes, tuple(map(str, range(classes))), fill, fill, shape, labels, images)


def check_student(config) -> None:
    """Every name and shape of the student's run, and its state on a mesh of 4 x 2 devices; nothing is computed."""
    source = source_for(config)
    models = {role: make_model(config[role].model, source) for role in ("student", "teacher")}
    config.mesh.axes.fsdp = 2
    sources = {"train": source, "validation": None, "test": source}
    jobs = plan(config, Path("nowhere"), models, sources, {"teacher": sources})
    assert set(jobs) == {"teacher", "baseline", "student"}
    check_job(jobs["student"], batch_shapes(source, config.train.batch_size), make_mesh(config.mesh.axes))


def names_in(fields):
    """Every name of a module's member that a config holds; an environment of gymnax is none."""
    for key, value in fields.items():
        if hasattr(value, "items"):
            yield from names_in(value)
        elif key in ("fn", "name") and isinstance(value, str) and ("." in value or ":" in value):
            if not value.startswith("gymnax:"):
                yield value


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_variant_names_what_exists_and_has_a_tiny_form(path):
    config_file = module(path.stem)
    words = words_of(config_file)
    for word in ("", *words.variants, *words.data, *words.flags):
        config = config_file.get_config(word)
        for name in names_in(settled(config)):
            resolve(name)
        tiny = config_file.get_config(",".join(filter(None, (word, "tiny"))))
        assert tiny.train.steps <= 10 and tiny.train.epochs == 0 and tiny.eval_every <= 10
    assert "tiny" in words.flags and ast.get_docstring(ast.parse(path.read_text())).splitlines()[0].endswith((".", ":"))


def test_every_method_fits_the_digits():
    for name in PRESETS:
        make_terms(module("cifar_resnet").get_config(f"digits,{name}").terms, 10, 10)
    for names in ("+".join(n for n in PRESETS if n not in SCHEMES), *SCHEMES):
        check_student(module("cifar_resnet").get_config(f"digits,{names}"))


@pytest.mark.parametrize(
    "variant", ["", "cifar100,tiny", "fashion_mnist", "fashion_mnist,tiny,feature+attention+relation"]
)
def test_every_data_set_of_the_first_config(variant):
    check_student(module("cifar_resnet").get_config(variant))


@pytest.mark.parametrize(
    "variant",
    [
        "",
        "at+fitnet+dist,bfloat16,tiny",
        "resnet50-MobileNetV1,kd+at+review_kd+ofd+crd+srrl,tiny",
        "cat_kd+mgd+ofd,tiny",
    ],
)
def test_imagenet_in_shapes(variant):
    config = module("imagenet_resnet").get_config(variant)
    assert config.train.optimizer.boundaries == (0.3, 0.6, 0.9)
    check_student(config)


PAIRS = module("cifar100_pairs")


@pytest.mark.parametrize("pair", PAIRS.EXPECTED)
def test_published_pairs_in_shapes(pair):
    teacher, student = PAIRS.split_pair(pair)
    assert f"{teacher}-{student}" == pair
    config = PAIRS.get_config(f"{pair},kd+fitnet+at")
    assert config.train.optimizer.learning_rate == (
        0.01 if student in ("MobileNetV2", "ShuffleNetV1", "ShuffleNetV2") else 0.05
    )
    assert config.teacher.train.optimizer.learning_rate == 0.05
    assert (teacher in FOUR_STAGES) == (student in FOUR_STAGES) == ("at_stage4" in config.terms)
    check_student(config)


@pytest.mark.parametrize(
    ("pair", "methods"),
    [
        ("resnet32x4-resnet8x4", "ab+ofd+fsp+review_kd"),
        ("vgg13-vgg8", "ab+ofd+fsp+review_kd"),
        ("vgg13-MobileNetV2", "ab+ofd+vid+cat_kd+srrl"),  # its stages are linear, and their own pre-activations
        ("wrn40-2-ShuffleNetV1", "ab+ofd+vid+cat_kd+srrl"),
        ("resnet32x4-ShuffleNetV2", "ab+ofd+review_kd+cat_kd+srrl+ickd+semckd"),
        ("ResNet50-vgg8", "ab+ofd+review_kd+cat_kd+ickd+itrd+semckd"),
    ],
)
def test_published_methods_across_architectures_in_shapes(pair, methods):
    check_student(PAIRS.get_config(f"{pair},sp+rkd+pkt+nst+ft+crd+{methods}"))


def test_terms_on_four_stages_keep_the_published_weights():
    three = compose("ab+at+sp")
    four = with_four_stages(three)
    assert three == compose("ab+at+sp")
    assert [four[f"ab_stage{i}"]["weight"] * 8 for i in (1, 2, 3, 4)] == pytest.approx([0.003, 0.006, 0.012, 0.024])
    assert {four[f"at_stage{i}"]["weight"] for i in (1, 2, 3, 4)} == {1000.0}
    assert four["ab_stage4"]["targets"] == ("teacher.features:stage4/pre_activation",)
    assert "sp_stage4" not in four and four["sp"]["targets"] == ("teacher.features:stage4",)


def test_a_pair_is_titled_with_what_was_published():
    config = PAIRS.get_config("vgg13-vgg8,dkd")
    assert config.title == "vgg13 to vgg8 on CIFAR-100, dkd (published: teacher 74.64, alone 70.36, dkd 74.68)"
    assert config.terms.kd.kwargs.beta == 6.0
    assert PAIRS.get_config().title.endswith("kd (published: teacher 79.42, alone 72.5, kd 73.33)")
    with pytest.raises(ValueError, match="resnet56-resnet20"):
        PAIRS.get_config("resnet56-resnet21")


def pictures(shape: tuple[int, ...], count: int = 48) -> Splits:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % 4
    return from_arrays(train=(x, y), test=(x[:20], y[:20]), name="random")


def streamed(source: Source) -> Source:
    """The same images, read one by one, as those of ImageNet are."""

    def fetch(index: int, view: int | None, seed: int) -> dict:
        return {"image": source.images[index], "label": source.labels[index]}

    facts = {
        n: getattr(source, n) for n in ("name", "split", "num_classes", "class_names", "mean", "std", "image_shape")
    }
    return Source(labels=None, fetch=fetch, size=len(source), **facts)


def take_steps(config, splits: Splits, directory: Path, steps: int = 2, **widths) -> dict:
    """A run with an untrained teacher from a checkpoint."""
    for network in (config.student, config.teacher):
        network.model.kwargs.update(widths)
    config.train.update(dict(steps=steps, epochs=0.0, batch_size=16))
    config.update(dict(baseline=False, workers=0, report=False, examples=0, eval_batch_size=16))
    teacher = make_model(config.teacher.model, splits.train)
    image = np.zeros((1, *splits.train.image_shape), np.float32)
    config.teacher.checkpoint = str(directory / "teacher")
    save_tree(directory / "teacher", exported(*jax.jit(teacher.init)(jax.random.key(0), image)))
    return train.run(config, directory / "run", data=splits)


def test_imagenet_takes_steps_on_streamed_images_over_eight_devices(tmp_path):
    config = module("imagenet_resnet").get_config("bfloat16,tiny")
    config.mesh.axes.fsdp = 2
    images = pictures((32, 32, 3))
    splits = Splits(streamed(images.train), None, streamed(images.test))
    results = take_steps(config, splits, tmp_path, widths=(8, 8, 8, 8), stem_width=8, blocks=(1, 1, 1, 1))
    assert results["models"]["student"]["steps"] == 2 and "test" in results["models"]["student"]["last"]
    assert train.run(config, tmp_path / "run", data=splits) == results


@pytest.mark.parametrize("method", ["fitnet", "mlkd", "ft"])
def test_a_pair_takes_steps_over_eight_devices(tmp_path, method):
    config = PAIRS.get_config(f"resnet32x4-resnet8x4,{method},tiny")
    steps = 9 if method == "ft" else 2  # the first stage has a ninth of them
    narrow = dict(widths=(4, 8, 8), stem_width=4, blocks=(1, 1, 1))
    results = take_steps(config, pictures((8, 8, 3)), tmp_path, steps, **narrow)
    assert results["models"]["student"]["steps"] == steps


def test_teacher_and_student_of_fashion_mnist_share_no_image(monkeypatch):
    """And both are evaluated on the same images; which they are depends on data.split_seed alone."""
    numbers = np.arange(60000)
    images = np.stack([numbers // 256, numbers % 256], -1).astype(np.uint8)[:, None, None]
    fake = types.ModuleType("fake_fashion")
    fake.splits = lambda _: from_arrays(train=(images, numbers % 10), test=(images[:300], numbers[:300] % 10))
    monkeypatch.setitem(sys.modules, "fake_fashion", fake)
    config = module("cifar_resnet").get_config("fashion_mnist")
    config.data.name = "fake_fashion:splits"
    student, teacher = load(config.data), load(own_data(config, config.teacher))

    def examples_of(source: Source) -> set[bytes]:
        return {image.tobytes() for image in source.images}

    assert [len(student.train), len(teacher.train), len(student.validation)] == [21000, 20000, 3000]
    assert student.train.labelled.sum() == 1000 and teacher.train.labelled.all()
    assert not examples_of(student.train) & examples_of(teacher.train)
    assert not (examples_of(student.train) | examples_of(teacher.train)) & examples_of(student.validation)
    np.testing.assert_array_equal(student.validation.images, teacher.validation.images)
    few = load({**config.data, "eval_limit": 50})
    assert [len(source) for source in few] == [21000, 50, 50] and examples_of(few.validation) <= examples_of(
        student.validation
    )
