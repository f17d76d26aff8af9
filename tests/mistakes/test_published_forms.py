"""Forms of published models that are not read, and numbers that do not fit theirs: said before anything is loaded."""

import json

from mistakes import Mistake, check, each

from kd_jax.models.language.pretrained import encoder_of
from kd_jax.models.language.pretrained_decoders import decoder_of

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}


def read(of, family, head=None, scan=None, **changes):
    """Reads a folder whose config.json says this."""
    options = {name: value for name, value in (("head", head), ("scan", scan)) if value is not None}

    def do(folder):
        (folder / "config.json").write_text(json.dumps({**SIZES, "model_type": family, **changes}))
        of(str(folder), **options)

    return do


def rope(family="llama", **scaling):
    return read(decoder_of, family, rope_scaling=scaling)


DIVISORS = {"short_factor": [1.0], "long_factor": [1.0]}
ROWS = [
    Mistake(
        "positions scaled by an unknown word",
        "positions scaled by 'yarm' are not supported. Did you mean 'yarn'",
        rope(rope_type="yarm", factor=2.0),
    ),
    Mistake(
        "a form of positions without a factor", "positions scaled by 'linear' need factor", rope(rope_type="linear")
    ),
    Mistake(
        "divisors of LongRoPE for another head",
        "long_factor has 1 divisors, and 4 frequencies are turned by",
        rope("phi3", rope_type="longrope", **DIVISORS),
    ),
    Mistake(
        "heads turned in part in a family that turns whole ones",
        "(partial_rotary_factor=0.5) are those of phi3, not of llama",
        read(decoder_of, "llama", partial_rotary_factor=0.5),
    ),
    Mistake("an unknown decoder", "the model type is 'mixtrall'. Did you mean 'mixtral'", read(decoder_of, "mixtrall")),
    Mistake(
        "weights in a packing that is not read",
        "weights quantised by 'gptq' are not read: plain ones are, and MXFP4's",
        read(decoder_of, "llama", quantization_config={"quant_method": "gptq", "bits": 4}),
    ),
    Mistake(
        "more experts a token than there are",
        "experts_used=9: a token has from 1 to experts=8 of them",
        read(decoder_of, "mixtral", num_local_experts=8, num_experts_per_tok=9),
    ),
    Mistake(
        "layers with and without experts in one scan",
        "scan=True runs layers that are alike, and dense_layers=(1,) are not as the others",
        read(decoder_of, "qwen3_moe", scan=True, num_experts=4, num_experts_per_tok=2, mlp_only_layers=[1]),
    ),
    Mistake(
        "an unknown encoder",
        "the model type is 'debertav3'. Did you mean 'deberta-v2'",
        read(encoder_of, "debertav3", "hidden"),
    ),
    Mistake(
        "a masked language model of T5",
        "t5 has no head 'tokens'; expected one of hidden, classes, sentence",
        read(encoder_of, "t5", "tokens"),
    ),
    Mistake(
        "a DeBERTa without distances",
        "a DeBERTa with relative_attention=False is not read, only True",
        read(encoder_of, "deberta-v2", "hidden", relative_attention=False),
    ),
    Mistake(
        "a ModernBERT whose positions are scaled",
        "a ModernBERT whose positions are scaled (rope_scaling) is not read",
        read(encoder_of, "modernbert", "hidden", rope_scaling={"rope_type": "yarn", "factor": 2.0}),
    ),
    Mistake(
        "an MPNet that pads otherwise",
        "pad_token_id=0: the positions of an MPNet begin behind 1",
        read(encoder_of, "mpnet", "hidden", pad_token_id=0),
    ),
]


@each(ROWS)
def test_published_forms(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
