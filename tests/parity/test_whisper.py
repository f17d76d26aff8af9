"""Whisper against `transformers`: the same weights give the same logits and greedy tokens, read and written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from kd_jax.models.adapters import as_model  # noqa: E402
from kd_jax.models.language.beam_search import beam_search  # noqa: E402
from kd_jax.models.language.generation import generate  # noqa: E402
from kd_jax.models.speech import whisper, whisper_decoding, whisper_folder  # noqa: E402
from kd_jax.models.speech.log_mel import whisper_log_mel  # noqa: E402

KEY, START, END = jax.random.key(0), 1, 2
SIZES = dict(
    vocab_size=30,
    d_model=16,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=4,
    decoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_ffn_dim=20,
    num_mel_bins=12,
    max_source_positions=20,
    max_target_positions=16,
    pad_token_id=0,
    bos_token_id=START,
    eos_token_id=END,
    decoder_start_token_id=START,
    suppress_tokens=None,
    begin_suppress_tokens=None,
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    torch.manual_seed(0)
    theirs = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**SIZES)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # random biases and norms too
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("whisper")
    theirs.save_pretrained(folder)
    model = as_model(whisper.whisper(folder=str(folder)))
    return theirs, model, whisper_folder.load(model, KEY, str(folder)), folder


def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 40, 12)).astype(np.float32), rng.integers(3, 30, (2, 7)).astype(np.int32)


def test_logits_are_those_of_transformers(pair, tmp_path):
    theirs, model, (params, stats), _ = pair
    mel, tokens = batch()
    with torch.no_grad():
        expected = theirs(
            input_features=torch.tensor(mel).transpose(1, 2), decoder_input_ids=torch.tensor(tokens).long()
        )
    outputs, _ = model.apply(params, stats, mel, tokens, train=False, key=KEY, taps=("*",))
    np.testing.assert_allclose(outputs.logits, expected.logits.numpy(), atol=1e-4)
    np.testing.assert_allclose(outputs.features["memory"], expected.encoder_last_hidden_state.numpy(), atol=1e-4)
    special = {k: v for k, v in SIZES.items() if k.endswith("token_id") or k.endswith("_tokens")}
    whisper_folder.save(tmp_path, model, params, special)
    again = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        written = again(input_features=torch.tensor(mel).transpose(1, 2), decoder_input_ids=torch.tensor(tokens).long())
    np.testing.assert_allclose(written.logits.numpy(), expected.logits.numpy(), atol=1e-5)


def test_greedy_tokens_are_those_of_the_whole_network(pair):
    theirs, model, (params, stats), _ = pair
    mel, _ = batch()
    run = whisper_decoding.decoding(model.module)
    text = generate(
        run,
        params,
        jnp.full((2, 1), START, jnp.int32),
        None,
        KEY,
        length=9,
        temperature=0.0,
        end=END,
        cache=run.read(params, mel, None, 10),
    )
    tokens = np.full((2, 1), START)
    for _ in range(9):  # without a cache, by their network
        with torch.no_grad():
            said = theirs(input_features=torch.tensor(mel).transpose(1, 2), decoder_input_ids=torch.tensor(tokens))
        tokens = np.concatenate([tokens, said.logits[:, -1].argmax(-1, keepdim=True).numpy()], 1)
    for mine, real, all_of in zip(np.asarray(text.tokens), np.asarray(text.mask), tokens[:, 1:], strict=True):
        np.testing.assert_array_equal(mine[real], all_of[: real.sum()])
    beams = beam_search(
        run,
        params,
        jnp.full((2, 1), START, jnp.int32),
        None,
        beams=1,
        length=9,
        end=END,
        cache=run.read(params, mel, None, 10),
    )
    assert (np.asarray(beams.tokens[:, 0]) == np.asarray(text.tokens)).mean() > 0.8


def test_left_padding_changes_nothing(pair):
    _, model, (params, _), _ = pair
    mel, tokens = batch()
    run = whisper_decoding.decoding(model.module)
    plain, _ = run.step(params, jnp.asarray(tokens), run.read(params, mel, None, 7), None, False)
    padded = jnp.asarray(np.pad(tokens, ((0, 0), (2, 0))))
    mask = jnp.asarray(np.pad(np.ones((2, 7), bool), ((0, 0), (2, 0))))
    shifted, _ = run.step(params, padded, run.read(params, mel, None, 9), mask, False)
    np.testing.assert_allclose(shifted[:, 2:], plain, atol=1e-5)
    whole, _ = model.apply(params, {}, mel, tokens, train=False, key=KEY)
    np.testing.assert_allclose(plain, whole.logits, atol=1e-5)


def test_a_student_of_the_first_and_the_last_layer(pair):
    _, model, (params, stats), folder = pair
    mel, tokens = batch()
    student = as_model(whisper.whisper(folder=str(folder), decoder_depth=2))
    shapes = jax.eval_shape(student.init, KEY, mel, tokens)
    mine, _ = whisper_folder.layers(student, KEY, (params, stats), shapes)
    np.testing.assert_array_equal(
        mine["decoder"]["layer1"]["inner"]["kernel"], params["decoder"]["layer2"]["inner"]["kernel"]
    )
    jax.tree.map(np.testing.assert_array_equal, mine["encoder"], params["encoder"])
    with pytest.raises(
        ValueError, match=r"layers=\(0, 3\): the student needs 2 of the teacher's 3, numbers from 0 to 2"
    ):
        whisper_folder.layers(student, KEY, (params, stats), shapes, layers=(0, 3))


def test_waves_and_their_features_are_the_same_to_it():
    model = as_model(whisper.whisper(8, width=8, encoder_depth=1, heads=2, source_positions=10, target_positions=4))
    waves = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3200)), jnp.float32)
    params, stats = model.init(KEY, waves, jnp.zeros((1, 3), jnp.int32))
    run = lambda source: model.apply(params, stats, source, jnp.zeros((1, 3), jnp.int32), train=False, key=KEY)[0]  # noqa: E731
    np.testing.assert_allclose(run(waves).logits, run(whisper_log_mel(waves)).logits, atol=1e-5)
    with pytest.raises(ValueError, match="recordings of 20 positions, and it has 10: 320 samples each"):
        run(jnp.concatenate([waves, waves], 1))
