"""Configs of published experiments hold the values of their authors' repositories, pair by pair."""

import pytest
import values
from ml_collections import ConfigDict

from kd_jax.config import files, pairs

PAIR, ABSENT = "resnet32x4-resnet8x4", "-"


def config_of(name: str, variant: str) -> ConfigDict:
    return files.config_of(files.load(files.locate(f"{name}.py")), variant)


def at(terms, path: str):
    for word in path.split("."):
        terms = terms[word]
    return terms


@pytest.mark.parametrize(("method", "path", "row", "source"), values.ROWS, ids=[f"{r[0]}-{r[1]}" for r in values.ROWS])
def test_values_of_each_pair(method, path, row, source):
    first = values.FIRST_PAIR.get(method, PAIR)
    for pair, value in zip(values.PAIRS, row.split(), strict=True):
        config = config_of("cifar100_pairs", f"{pair},{method}")
        if value == ABSENT:  # the value of the preset, and the title says so
            assert at(config.terms, path) == at(config_of("cifar100_pairs", f"{first},{method}").terms, path)
            assert f"{method} with the options of {first}: none published" in config.title
        else:
            assert at(config.terms, path) == float(value), (pair, source)
            assert "none published" not in config.title


@pytest.mark.parametrize("method", values.EVERYWHERE)
def test_values_that_all_pairs_share(method):
    for pair in (PAIR, "vgg13-MobileNetV2"):
        terms = config_of("cifar100_pairs", f"{pair},{method}").terms
        for path, value in values.EVERYWHERE[method].items():
            assert at(terms, path) == value, (pair, path)


@pytest.mark.parametrize("method", values.STAGES)
def test_weights_of_stages(method):
    whole, factor = values.STAGES[method]
    for pair, stages in ((PAIR, 3), ("ResNet50-MobileNetV2", 4)):
        terms = config_of("cifar100_pairs", f"{pair},{method}").terms
        weights = {n: terms[f"{method}_stage{n}"].weight for n in range(1, stages + 1)}
        assert weights == pytest.approx({n: whole * factor ** (stages - n) for n in weights})
        assert len([name for name in terms if name != "ce"]) == stages


@pytest.mark.parametrize("method", values.IMAGENET)
def test_values_on_imagenet(method):
    terms = config_of("imagenet_resnet", method).terms
    for path, value in values.IMAGENET[method].items():
        assert at(terms, path) == value, path


@pytest.mark.parametrize("method", values.IMAGENET_MOBILE)
def test_values_on_imagenet_for_mobilenet(method):
    config = config_of("imagenet_resnet", f"resnet50-MobileNetV1,{method}")
    assert (config.teacher.model.name, config.student.model.name) == (
        "models.vision.resnet.resnet50",
        "models.vision.mobilenet.mobilenet_v1",
    )
    for path, value in values.IMAGENET_MOBILE[method].items():
        assert at(config.terms, path) == value, path


def test_taps_of_review_kd():
    """The student after, the teacher before its ReLU, four stages where there are four; ImageNet: both before."""
    for pair, stages in ((PAIR, 3), ("ResNet50-vgg8", 4)):
        term = config_of("cifar100_pairs", f"{pair},review_kd").terms.review
        names = [f"stage{i}" for i in range(1, stages + 1)]
        assert list(term.inputs) == [f"student.features:{n}" for n in (*names, "embedding")]
        assert list(term.targets) == [
            f"teacher.features:{n}" for n in (*(f"{n}/pre_activation" for n in names), "embedding")
        ]
    term = config_of("imagenet_resnet", "review_kd").terms.review
    assert term.inputs[3] == "student.features:stage4/pre_activation" and len(term.inputs) == 5


def test_recipes():
    """Rates and batches: 0.05 and 64; 0.01 for MobileNetV2 and ShuffleNets; ReviewKD's authors 0.1 (0.02) and 128."""
    expected = {
        f"{PAIR},kd": (0.05, 64, {}),
        "wrn40-2-ShuffleNetV1,kd": (0.01, 64, {}),
        f"{PAIR},review_kd": (0.1, 128, {"nesterov": True}),
        "resnet32x4-ShuffleNetV2,review_kd": (0.02, 128, {"nesterov": True}),
    }
    for variant, (rate, batch, kwargs) in expected.items():
        train = config_of("cifar100_pairs", variant).train
        assert (train.optimizer.learning_rate, train.batch_size, train.epochs) == (rate, batch, 240.0)
        assert train.optimizer.kwargs.to_dict() == kwargs
        assert train.optimizer.boundaries == (150 / 240, 180 / 240, 210 / 240)


def test_multi_level_logits_see_two_views():
    """.1 (CE weak + strong) + .9 (1/2 of all levels, weak; KD strong at 3, 4, 5; KD weak at 2, 6); 480 epochs, .025."""
    config = config_of("cifar100_pairs", f"{PAIR},mlkd")
    terms = config.terms
    assert {n: t.weight for n, t in terms.items()} == {
        "ce": 0.1,
        "ce_strong": 0.1,
        "kd": 0.45,
        "kd_strong": 0.9,
        "kd_weak": 0.9,
    }
    assert (terms.kd_strong.kwargs.temperatures, terms.kd_weak.kwargs.temperatures) == ((3.0, 4.0, 5.0), (2.0, 6.0))
    assert (config.train.epochs, config.train.optimizer.learning_rate) == (480.0, 0.025)
    shuffled = config_of("cifar100_pairs", "resnet32x4-ShuffleNetV2,mlkd").train
    assert (shuffled.epochs, shuffled.optimizer.learning_rate) == (960.0, 0.01)
    assert config_of("cifar100_pairs", "wrn40-2-ShuffleNetV1,mlkd").train.epochs == 480.0


@pytest.mark.parametrize("method", ["ab", "fsp", "ft"])
def test_first_stages(method):
    """30 epochs before the 240, on its own terms, at a constant rate: 0.01 for FT with a residual student."""
    config = config_of("cifar100_pairs", f"{PAIR},{method}")
    first, task = config.scheme.kwargs.stages
    assert config.train.epochs == 270.0
    assert (first["share"], task["share"]) == pytest.approx((30 / 270, 240 / 270))
    assert "ce" in task["terms"] and {*first["terms"]} & {*task["terms"]} == set()
    assert config.optimizers.first.schedule == "constant"
    assert config.optimizers.first.learning_rate == (0.01 if method == "ft" else 0.05)
    assert config_of("cifar100_pairs", f"vgg13-vgg8,{method}").optimizers.first.learning_rate == 0.05


def test_a_pair_for_which_a_method_is_not_defined():
    with pytest.raises(
        ValueError, match="fsp needs stages of equal widths, which vgg13-MobileNetV2 has not. It has: wrn40"
    ):
        config_of("cifar100_pairs", "vgg13-MobileNetV2,fsp")
    published = files.load(files.locate("cifar100_pairs.py"))
    expected = published.EXPECTED
    assert {*pairs.ONLY["fsp"]} >= {pair for pair, row in expected.items() if "fsp" in row}
