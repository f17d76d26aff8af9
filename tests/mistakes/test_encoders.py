"""Folders of language encoders that do not fit a run: said in one line before anything is read."""

import json

from language_folders import trained
from mistakes import Mistake, check, each
from scheme_checks import config_module

from kd_jax.config.fields import settled

SIZES = {
    "vocab_size": 400,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
}
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]


def written(place, special=SPECIAL, family="bert"):
    """Writes config.json and the tokenizer of a small encoder, without weights."""
    place.mkdir()
    (place / "config.json").write_text(json.dumps({**SIZES, "model_type": family}))
    if special:
        trained(special).save(str(place / "tokenizer.json"))
    return str(place)


def asked(method="response", teacher=None, student=None, **fields):
    """Settles a config of these folders: {argument of `written`: value}, or a path as it is."""

    def do(folder):
        config = config_module("encoders").get_config(f"{method},tiny")
        for role, options in (("teacher", teacher), ("student", student)):
            if options is not None:
                path = options if isinstance(options, str) else written(folder / role, **options)
                config[role].path = path
        config.update_from_flattened_dict(fields)
        settled(config)

    return do


ROWS = [
    Mistake("a folder of an encoder that is not there", "'nowhere/x/y' is not there", asked(teacher="nowhere/x/y")),
    Mistake(
        "a decoder where an encoder is asked for",
        "the model type is 'qwen2'. There is: bert,",
        asked(teacher={"family": "qwen2"}),
    ),
    Mistake("an encoder without a tokenizer", "has no tokenizer.json", asked(teacher={"special": ()})),
    Mistake(
        "encoders of different tokenizers",
        "Student and teacher have different tokenizers: '[CLS]' is number 0 in…",
        asked(teacher={}, student={"special": SPECIAL[1:]}),
    ),
    Mistake(
        "an encoder of its own and layers of the teacher",
        "student.layers=2 makes a student of layers of the teacher, and student.path=…give one of the two",
        asked(teacher={}, student={}, **{"student.layers": 2}),
    ),
    Mistake(
        "more layers than the encoder has",
        "student.layers=3:…has 2 layers",
        asked(teacher={}, **{"student.layers": 3}),
    ),
    Mistake(
        "sizes beside an encoder of its own",
        "is a network of its own sizes, and student.model.kwargs has hidden=768, width=192: leave one of the two out",
        asked("response,narrow", student={}),
    ),
    Mistake(
        "a mask that is another token",
        "prepare.kwargs.mask_id=103 is no mask in…: it is 3",
        asked("distilbert_mlm", teacher={}),
    ),
    Mistake(
        "an encoder's folder where the model is no encoder",
        "config.student.path is read by 'models.language.pretrained.encoder_of', and config.student.model.name is",
        asked(teacher={}, student={}, **{"student.model.name": "models.language.decoder_families.llama"}),
    ),
]


@each(ROWS)
def test_encoders(mistake, tmp_path, capsys):
    check(mistake, tmp_path, capsys)
