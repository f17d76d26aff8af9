"""What goes wrong when a student leaves the house in another format."""

import importlib.util
import json

import numpy as np
import pytest
from exported import examples_of, student_of
from mistakes import Mistake, check, each

from kd_jax.export import examples, huggingface, network, onnx, parity, safetensors, stablehlo, web
from kd_jax.export.__main__ import main
from kd_jax.export.run import export


def exported(folder, formats, name="mlp", **options):
    student = student_of(name)
    return export(
        student, formats, folder / "out", options.pop("examples", examples_of(student)), measure=False, **options
    )


def answers_otherwise(folder):
    """The file of the second format adds 1 to every output."""
    read = stablehlo.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stablehlo, "read", lambda path: lambda *x: [y + 1 for y in read(path)(*x)])
        exported(folder, ["safetensors", "stablehlo"])


def of_bytes(read, name, content=b"no such thing"):
    def do(folder):
        (folder / name).write_bytes(content)
        return read(folder / name)

    return do


def cut_off(folder):
    path = stablehlo.write(*exported_network(), folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return stablehlo.read(path)


def exported_network():
    from kd_jax.export import deployed

    return deployed.with_preparation(student_of("mlp"))


def of_another(folder):
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(3)}, folder / "theirs.safetensors")
    return safetensors.load(folder / "theirs.safetensors")


def without_runs_data(folder):
    return examples.of_run(folder, student_of("mlp"))


def data_of_python(folder):
    (folder / "config.json").write_text(json.dumps({"config": {"data": {"name": "mine", "object": "120 examples"}}}))
    return examples.of_run(folder, student_of("mlp"))


def other_examples(folder):
    np.save(folder / "x.npy", np.zeros((4, 5, 5, 1), np.uint8))
    return examples.of_file(folder / "x.npy", student_of("mlp"))


ROWS = [
    Mistake(
        "an unknown export format", "There is no format 'onx'. Did you mean 'onnx'?", lambda f: exported(f, ["onx"])
    ),
    Mistake("int8 without ONNX", "int8 is of ONNX: add onnx", lambda f: exported(f, ["stablehlo"], int8=True)),
    Mistake(
        "a tolerance below 0", "tolerance=-1.0 is at least 0", lambda f: exported(f, ["stablehlo"], tolerance=-1.0)
    ),
    Mistake(
        "a file that answers otherwise than the network",
        "stablehlo: on 6 real examples its outputs differ by up to 1 (at most …); the file is removed. --tolerance",
        answers_otherwise,
        "end",
    ),
    Mistake(
        "a Hugging Face folder of a network that transformers has no class for",
        "huggingface: transformers has no class that kd_jax writes a MLP for: take safetensors",
        lambda f: huggingface.write(student_of("mlp"), f),
        "end",
    ),
    Mistake(
        "a page to draw on for a network of texts",
        "web: the page draws pictures, uint8 [height, width, 1 or 3]; the student reads int32 [6]",
        lambda f: web.write(student_of("classes"), None, examples_of(student_of("classes")), f),
        "end",
    ),
    Mistake(
        "a StableHLO file that is cut off",
        "model.stablehlo is no StableHLO of jax.export, or is damaged",
        cut_off,
        "reading",
    ),
    Mistake(
        "a file of another kind as StableHLO",
        "x.stablehlo is no StableHLO of jax.export, or is damaged",
        of_bytes(stablehlo.read, "x.stablehlo"),
        "reading",
    ),
    Mistake(
        "a damaged safetensors file",
        "x.safetensors is no safetensors file, or is damaged",
        of_bytes(safetensors.load, "x.safetensors"),
        "reading",
    ),
    Mistake(
        "safetensors of somebody else",
        "was not written by kd_jax.export: its metadata have no 'kd_jax'",
        of_another,
        "reading",
    ),
    Mistake(
        "an export far from its run, without examples",
        "there are no test examples to compare with. Give real ones: --data=FILE.npy, of image uint8 [8, 8, 1] each",
        without_runs_data,
    ),
    Mistake(
        "an export of a run whose data Python gave",
        "(mine) were given as an object in Python. Give real ones",
        data_of_python,
    ),
    Mistake("examples of another shape", "Expected image [n, 8, 8, 1] uint8, as in training", other_examples),
    Mistake(
        "a file of examples that is none",
        "x.npy is no .npy or .npz file of examples",
        of_bytes(lambda path: examples.of_file(path, student_of("mlp")), "x.npy"),
    ),
]


@each(ROWS)
def test_export_formats(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out-*")), "nothing half-written stays"


def test_a_damaged_onnx_file(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="x.onnx is no ONNX model, or is damaged"):
        of_bytes(onnx.read, "x.onnx")(tmp_path)


@pytest.mark.parametrize(("module", "name"), [("jax2onnx", "onnx"), ("litert_converter.mlir.ir", "litert")])
def test_a_missing_extra_is_named(module, name, monkeypatch):
    def missing(wanted):
        raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted.partition(".")[0])

    monkeypatch.setattr(network.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=rf"is not installed: pip install 'kd_jax\[{name}\]'"):
        network.extra(module, name, "It")
    assert importlib.util.find_spec("kd_jax")


def test_the_command_ends_with_one_line(tmp_path):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "nothing"), "--to=stablehlo"])
    assert "ValueError: There is no exported model at" in str(ended.value) and str(ended.value).count("\n") <= 2


def test_parity_of_other_shapes_and_values():
    answers = np.eye(3, dtype=np.float32)
    with pytest.raises(parity.ParityFailed, match="its outputs have the shapes"):
        parity.compare(lambda x: [x[:2]], [answers], [answers], None)
    infinite, _ = parity.compare(lambda x: [x * np.inf], [answers + 1], [answers], None)
    assert infinite.failure(parity.Gate(None, 0.0), 1.0) == "its answers are not finite"
    other, _ = parity.compare(lambda x: [np.roll(x, 1, 1)], [answers], [answers], None)
    assert other.share_equal == 0 and "only 0.0% of its answers" in other.failure(parity.Gate(None, 0.9), 1.0)
    same, _ = parity.compare(lambda x: [x], [answers], [answers], None)
    assert same == (0.0, 1.0, 3) and not same.failure(parity.Gate(0.0, 1.0), 1.0)
