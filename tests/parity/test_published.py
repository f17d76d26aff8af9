"""Layers of a published decoder, with what was theirs alone (windows, positions), as a folder for `transformers`."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from published_folders import folder  # noqa: E402

from kd_jax.models import from_teacher  # noqa: E402
from kd_jax.models.adapters import LinenModel  # noqa: E402
from kd_jax.models.language.pretrained_decoders import load  # noqa: E402
from kd_jax.models.language.published import decoder, save, token_count  # noqa: E402

KEY = jax.random.key(0)


@pytest.mark.parametrize("family", ["gemma3", "granite", "olmo2", "smollm3"])
def test_layers_of_a_teacher_leave_as_a_folder(family, tmp_path):
    source = str(folder(tmp_path / "teacher", family, rows=320, depth=4))
    whole, student = (LinenModel(decoder(source, layers=layers, scan=True)) for layers in (0, 2))
    teacher = load(whole, KEY, source)
    params, _ = from_teacher.layers(student, KEY, teacher)
    save(tmp_path / "student", source, student.module, params)
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student", attn_implementation="eager")
    tokens = np.random.default_rng(0).integers(5, 290, (2, 20)).astype(np.int32)
    ours = jax.jit(lambda p: student.module.apply({"params": p}, tokens))(params)
    with torch.no_grad():
        theirs = network.eval()(torch.tensor(tokens).long()).logits.numpy()
    assert theirs.shape[-1] == token_count(source) < 320 and network.config.num_hidden_layers == 2
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
