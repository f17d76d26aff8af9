"""Fields, terms and arguments that the command line changes; what does not exist is named with what does."""

import pytest
from absl import flags
from ml_collections import config_flags
from scheme_checks import CONFIGS, config_module

from kd_jax.cli import asked
from kd_jax.config.fields import own_data, settled
from kd_jax.config.knowledge import make_terms


def parse(*arguments: str):
    """The config that the command gets."""
    _, config, rest = asked([*arguments])
    values, argv = flags.FlagValues(), ["launch.py", *rest]
    holder = config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    values(argv)
    return holder.value


DIGITS = f"--config={CONFIGS}/cifar_resnet.py:digits"


def test_fields_from_the_command_line():
    config = parse(
        DIGITS,
        "--config.terms.kd.kwargs.temperature=2",
        "--config.train.batch_size=32",
        "--config.teacher.data.train_slice=(0, 100)",
        "--config.student.model.kwargs={'widths': (4, 8, 8), 'stem_width': 4}",
        "--noconfig.baseline",
        "--config.eval_every=30",
    )
    assert config.eval_every == 30
    assert config.terms.kd.kwargs.temperature == 2.0 and config.train.batch_size == 32 and not config.baseline
    assert own_data(config, config.teacher)["train_slice"] == (0, 100) and config.data.train_slice == (0, 0)
    assert config.student.model.kwargs.widths == (4, 8, 8)


def test_new_terms_and_arguments_from_the_command_line():
    config = parse(
        "--config.seed=3",  # before --config too
        *("--config", f"{CONFIGS}/cifar_resnet.py:digits"),
        "--config.terms.mine={'fn': 'losses.response.jsd_loss', 'inputs': ('student.logits',), "
        "'targets': ('teacher.logits',), 'kwargs': {'beta': 0.5}}",
        *("--config.terms.mine.weight", "0.5"),
        "--config.train.optimizer.name=adamw",
        "--config.train.optimizer.kwargs.b2=0.99",
        "--config.student.model.kwargs.widths=(4, 8, 8)",
    )
    assert config.seed == 3 and config.student.model.kwargs.widths == (4, 8, 8)
    mine = make_terms(config.terms, 10, 10)["mine"]
    assert mine.weight == 0.5 and mine.kwargs == {"beta": 0.5} and mine.targets == ("teacher.logits",)
    optimizer = settled(config).train.optimizer
    assert optimizer.kwargs.to_dict() == {"b2": 0.99, "weight_decay": 5e-4} and optimizer.weight_decay == 0.0


def test_what_a_run_writes_down_has_the_defaults_of_its_optimizers():
    config = config_module("adversarial").get_config("hinge")
    config.optimizers.discriminator.kwargs.b1 = 0.3
    config.teacher.train.optimizer.kwargs.momentum = 0.5
    config.terms.mine = {"fn": "losses.response.kd_loss", "inputs": ("student.logits",)}
    whole = settled(config)
    assert whole.train.optimizer.kwargs.to_dict() == {"momentum": 0.9}
    assert whole.teacher.train.optimizer.kwargs.to_dict() == {"momentum": 0.5}
    assert whole.optimizers.discriminator.kwargs.to_dict() == {"b1": 0.3}
    assert whole.terms.mine.weight == 1.0 and whole.terms.mine.connector.name == ""
    assert settled(whole).to_json() == whole.to_json()
    assert "momentum" not in config.train.optimizer.kwargs and "weight" not in config.terms.mine


def test_a_config_file_is_executed_once(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        f"from pathlib import Path\nimport kd_jax\n\n\ndef get_config():\n"
        f"    with open({str(tmp_path / 'count')!r}, 'a') as file:\n        file.write('x')\n    return kd_jax.base()\n"
    )
    assert parse(f"--config={path}", "--config.seed=5").seed == 5
    assert (tmp_path / "count").read_text() == "x"
    with pytest.raises(ValueError, match="has no variants.*'digits'"):
        parse(f"--config={path}:digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"--config={CONFIGS}/cifar_resnet.py:digist"], "Unknown word 'digist'.*'digits'"),
        ([f"--config={CONFIGS}/cifar_resnet.py:digits,feature,relation"], "knowledge is given twice.*'\\+'"),
        ([DIGITS, "--config.tran.steps=1"], "config has no field 'tran'.*'train'"),
        (
            [DIGITS, "--config.terms.kd.kwargs.temprature=1"],
            "no field 'temprature'.*'temperature'.*--config.terms.kd.kwargs=",
        ),
        ([DIGITS, "--config.terms.at.weight=1"], "config.terms has no field 'at'.*kd"),
        ([DIGITS, "--config.terms.at={'f': 1}"], "Term 'at' has no field 'f'. Did you mean 'fn'"),
        ([DIGITS, "--config.terms.at=kd_loss"], "Term 'at' is 'kd_loss', not a mapping such as"),
        ([f"--config={CONFIGS.parent}/README.md"], "README.md is no Python file"),
        ([f"--config={CONFIGS.parent}/launch.py"], "launch.py defines no function get_config"),
        (["--config=configs/cifar_resnt.py"], "no config file 'configs/cifar_resnt.py'.*configs/cifar_resnet.py"),
        (["--config.seed=1"], "Which config"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(arguments, message, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    with pytest.raises(ValueError, match=message):
        parse(*arguments)
