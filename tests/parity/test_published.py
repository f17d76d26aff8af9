"""Layers of a published decoder, with what was theirs alone (windows, positions), as a folder for `transformers`."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from published_folders import folder, seeing  # noqa: E402

from kd_jax.models import from_teacher  # noqa: E402
from kd_jax.models.adapters import LinenModel  # noqa: E402
from kd_jax.models.language.pretrained_decoders import load  # noqa: E402
from kd_jax.models.language.published import decoder, save, token_count  # noqa: E402
from kd_jax.models.streamed import Reading  # noqa: E402

KEY = jax.random.key(0)


@pytest.mark.parametrize("family", ["gemma3", "granite", "olmo2", "phi3", "smollm3"])
def test_layers_of_a_teacher_leave_as_a_folder(family, tmp_path):
    source = str(folder(tmp_path / "teacher", family, rows=320, depth=4))
    whole, student = (LinenModel(decoder(source, layers=layers, scan=True)) for layers in (0, 2))
    teacher = load(whole, KEY, source)
    params, _ = from_teacher.layers(student, KEY, teacher)
    save(tmp_path / "student", source, student.module, params)
    tokens = np.random.default_rng(0).integers(5, 290, (2, 20)).astype(np.int32)
    for model, values, place in ((whole, teacher[0], source), (student, params, tmp_path / "student")):
        network = transformers.AutoModelForCausalLM.from_pretrained(place, attn_implementation="eager")
        ours = jax.jit(lambda p, model=model: model.module.apply({"params": p}, tokens))(values)
        with torch.no_grad():
            theirs = network.eval()(torch.tensor(tokens).long()).logits.numpy()
        np.testing.assert_allclose(ours, theirs[..., : ours.shape[-1]], atol=1e-4)
    assert theirs.shape[-1] == token_count(source) < 320 and network.config.num_hidden_layers == 2


@pytest.mark.parametrize("names", ["now", "on the hub"])
def test_the_text_model_of_a_gemma_3_that_sees_pictures(names, tmp_path):
    """Read alone, with what its config.json leaves out; written by itself."""
    source = tmp_path / "whole"
    whole = seeing(source, folder(tmp_path / "text", "gemma3", rows=320, depth=4), names == "on the hub")
    model = LinenModel(decoder(str(source)))
    params, _ = load(model, KEY, str(source))
    tokens = np.random.default_rng(0).integers(5, 290, (2, 20)).astype(np.int32)
    ours = jax.jit(lambda p: model.module.apply({"params": p}, tokens))(params)
    with torch.no_grad():
        theirs = whole(torch.tensor(tokens).long()).logits.numpy()
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours, theirs[..., : ours.shape[-1]], atol=1e-4)
    save(tmp_path / "student", str(source), model.module, params, rows="all")
    alone = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student", attn_implementation="eager").eval()
    assert type(alone).__name__ == "Gemma3ForCausalLM" and alone.config.vocab_size == 320
    with torch.no_grad():
        np.testing.assert_allclose(alone(torch.tensor(tokens).long()).logits, theirs, atol=1e-4)
    streamed, _ = load(model, KEY, str(source), reading=Reading())
    jax.tree.map(np.testing.assert_array_equal, streamed, params)
