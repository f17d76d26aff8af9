"""Layers of a published decoder, with what was theirs alone (windows, positions), as a folder for `transformers`."""

import shutil

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from published_folders import folder  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

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
    text = folder(tmp_path / "text", "gemma3", rows=320, depth=4)
    pictures = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8)
    config = transformers.Gemma3Config(
        text_config=transformers.AutoConfig.from_pretrained(text).to_dict(),
        vision_config={**pictures, "patch_size": 4},
        mm_tokens_per_image=4,
    )
    torch.manual_seed(0)
    whole = transformers.Gemma3ForConditionalGeneration(config).eval()
    whole.set_attn_implementation("eager")
    for value in whole.parameters():
        value.data += 0.2 * torch.randn_like(value)
    source = tmp_path / "whole"
    shutil.copytree(text, source, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    whole.config.save_pretrained(source)
    weights = {name: value.contiguous() for name, value in whole.state_dict().items() if name != "lm_head.weight"}
    if names == "on the hub":
        weights = {
            name.replace("model.language_model.", "language_model.model.").removeprefix("model."): value
            for name, value in weights.items()
        }
    save_file(weights, source / "model.safetensors")

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
