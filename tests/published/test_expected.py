"""A run is set beside the published number of its recipe, and beside none where the recipe is another."""

import pytest
import values
from small_config import get_config

import kd_jax
from kd_jax.config import expected, files
from kd_jax.report.compared import of_run
from kd_jax.sweep.run import beside_published


def config_of(variant):
    return files.config_of(files.load(files.locate("cifar100_pairs.py")), variant)


@pytest.mark.parametrize(("method", "row", "source"), values.SCORES, ids=[r[0] for r in values.SCORES])
def test_scores_of_each_pair(method, row, source):
    for pair, value in zip(values.PAIRS, row.split(), strict=True):
        assert expected.EXPECTED[pair].get(method) == (None if value == "-" else float(value)), (pair, source)


@pytest.mark.parametrize("word", ["tiny", "synthetic"])
def test_nothing_is_published_of_made_images_or_a_few_steps(word):
    config = config_of(f"resnet32x4-resnet8x4,crd,{word}")
    assert config.published.scores.to_dict() == {} and not expected.applies(config)


def test_the_recipe_decides():
    config = config_of("resnet32x4-resnet8x4,crd")
    assert config.published.scores.student == 75.51 and expected.applies(config)
    config.seed, config.data.validation, config.eval_every = 3, 0.0, 1000
    assert expected.applies(config)
    config.teacher.train.epochs = 1.0
    assert not expected.applies(config)
    config.teacher.checkpoint = "a/teacher"  # its own score is told instead
    assert expected.applies(config)
    for field, value in {"terms.embed.weight": 0.7, "train.batch_size": 128, "data.limit": 1000}.items():
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict({field: value})
        assert not expected.applies(changed), field


def test_a_run_ends_beside_the_published_number(tmp_path):
    """On digits, as if a paper had reported this very config; then with one field changed."""
    config = get_config()
    config.baseline = True
    config.update(train=dict(steps=20), teacher=dict(train=dict(steps=20)))
    scores = {"student": 75.51, "baseline": 72.5, "teacher": 79.42}
    config.published.update(scores=scores, step="last epoch", source="a paper", recipe=expected.recipe_of(config))
    results = kd_jax.run(config, tmp_path / "as_published")
    line, test = of_run(results), results["models"]["student"]["last"]["test"]
    here = f"{100 * test['accuracy']:.2f} ± {100 * test['accuracy_error']:.2f}"
    assert line.startswith("Published 75.51 (last epoch; a paper; teacher 79.42; alone 72.50), here " + here)
    assert line in results["verdict"]["text"]
    row = {"setting": {}, "seeds": 3, "test": {"mean": 0.754, "std": 0.002}}
    sweep = {"rows": [row], "models": {}, "headline": results["headline"]}
    (said,) = beside_published(config, sweep)
    assert "here 75.40 ± 0.20 (last step, mean ± standard deviation of 3 seeds)" in said
    assert beside_published(config, {**sweep, "rows": [row | {"setting": {"x": 1}}]}) == []
    config.train.optimizer.learning_rate *= 2
    changed = kd_jax.run(config, tmp_path / "changed")
    assert changed["published"] == {} and "Published" not in changed["verdict"]["text"]
