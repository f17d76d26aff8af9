"""A published decoder as a network of a run, and what a run made of it as a folder that `transformers` loads.

Heads are longer than tokenizers where their rows were padded for speed (Qwen2: 151,936 rows for 151,665 tokens). Here a
network has the rows of the tokens that exist, so that it is trained, compared and scored over these alone; `save`
writes them, or all rows of the folder again.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kd_jax.models.from_teacher import every_nth
from kd_jax.models.hub import find_model
from kd_jax.models.language.decoder import Decoder
from kd_jax.models.language.decoder_configs import (
    PACKED,
    differences,
    layer_windows,
    layers_in_config,
    options_of,
    sizes_of,
)
from kd_jax.models.language.decoder_parts import Options
from kd_jax.models.language.folders import GENERATION, TEMPLATE, TOKENIZER_FILES, require_alike, token_count
from kd_jax.models.language.pretrained_decoders import decoder_of, rules_of, written
from kd_jax.models.language.text_models import NAMES, read_text_config
from kd_jax.models.safetensors_io import SHARD, Later, Tensors, renamed, write_folder
from kd_jax.ranges import NotNegative
from kd_jax.resolve import near
from kd_jax.types import PyTree

ROWS, DTYPES = ("tokens", "all"), ("float32", "bfloat16", "float16")
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def decoder(
    folder: str = "",
    tokenizer: str = "",
    length: NotNegative[int] = 0,
    layers: NotNegative[int] = 0,
    rows: str = "tokens",
    dtype: str = "float32",
    scan: bool = False,
    remat: str = "",
) -> Decoder:
    """Returns the decoder of a folder, to be loaded by models.language.pretrained_decoders.load.

    `tokenizer` is the folder whose tokenizer makes the data ("": its own): the network has a row for each of its
    tokens, or with rows="all" every row of the folder. `length` are the tokens of a row of the data, which its
    positions must reach. `layers` > 0 makes a network of so many of its layers, every n-th from the first on
    (models.from_teacher.layers copies them). `dtype`, `scan` and `remat` are as in decoder_parts.Options.
    ValueError for an unknown family, another tokenizer, a head with fewer rows than tokens, too many tokens or layers.
    """
    if not folder:
        raise ValueError("folder='': expected the folder of a published model, as transformers writes it.")
    if rows not in ROWS:
        raise ValueError(f"rows={rows!r}. {near(rows, ROWS)}")
    whole = decoder_of(folder, dtype=dtype, scan=scan, remat=remat).options
    require_alike(tokenizer or folder, folder)
    tokens = token_count(tokenizer or folder)
    if tokens > whole.vocabulary:
        raise ValueError(
            f"{folder} has rows for {whole.vocabulary} tokens, and the tokenizer of {tokenizer or folder} has "
            f"{tokens}: resize_token_embeddings of transformers adds rows."
        )
    if length > whole.max_length > 0:
        raise ValueError(
            f"data.length={length}: the positions of {folder} end at {whole.max_length} tokens "
            "(max_position_embeddings in config.json)."
        )
    changes: dict[str, Any] = {"vocabulary": tokens} if rows == "tokens" else {}
    if layers:
        if layers > whole.depth:
            raise ValueError(f"student.layers={layers}: {folder} has {whole.depth} layers.")
        changes |= _every_nth_layer(whole, layers)
    return Decoder(dataclasses.replace(whole, **changes))


def _every_nth_layer(whole: Options, layers: int) -> dict[str, Any]:
    """The fields of a network of so many of the layers of `whole`, each with what was its own."""
    chosen = every_nth(whole.depth, layers)
    windows = [layer_windows(whole)[i] for i in chosen]
    changes: dict[str, Any] = {"depth": layers, "windows": tuple(windows) if any(windows) else ()}
    for name in ("unplaced", "dense_layers"):
        changes[name] = tuple(n for n, i in enumerate(chosen) if i in getattr(whole, name))
    return changes


def positions_of(folder: str) -> int:
    """Returns the number of tokens to which the positions of a folder reach, 0 where it does not say."""
    config = read_text_config(find_model(folder))
    return int(config.get(sizes_of(config["model_type"])["max_length"]) or 0)


def save(
    folder: Path,
    source: str,
    module: Decoder,
    params: PyTree,
    *,
    tokenizer: str = "",
    template: str = "",
    rows: str = "tokens",
    dtype: str = "float32",
    max_shard_size: int = SHARD,
) -> None:
    """Writes what became of the decoder of the folder `source`: weights, tokenizer, and the files of settings.

    config.json is that of `source`, but for the sizes that changed. `rows`: "tokens", those of the network; "all", with
    the further rows of `source`, as they were. `dtype` is what the weights are rounded to;
    those of more than `max_shard_size` bytes are several files. The tokenizer and the chat
    template are copied from the folder `tokenizer` ("": `source`), the template from the file `template` where one is
    named. ValueError where the family cannot say the options of the network, and for an unknown word.
    """
    check_words(rows, dtype)
    place, o = find_model(source), module.options
    config = read_text_config(place)
    made = written(params, o, config["model_type"], dtype)
    if rows == "all":
        made |= _with_all_rows(place, config["model_type"], made)
    count = made["embed/embedding"].shape[0]
    config = _config(config, dataclasses.replace(o, vocabulary=count), dtype)
    folder.mkdir(parents=True)
    write_folder(folder, made, rules_of(config["model_type"]), config, max_shard_size=max_shard_size)
    copy_tokenizer(find_model(tokenizer or source), folder)
    if template:
        shutil.copyfile(template, folder / TEMPLATE)  # what transformers reads before all other places of one
    write_generation(place, config, folder)


def check_words(rows: str, dtype: str) -> None:
    """Raises ValueError for what `save` does not write."""
    for name, word, words in (("rows", rows, ROWS), ("dtype", dtype, DTYPES)):
        if word not in words:
            raise ValueError(f"config.export.kwargs.{name}={word!r}. {near(word, words)}")


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies the files of a tokenizer, the chat template among them."""
    for name in TOKENIZER_FILES:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name)
        elif (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def write_generation(source: Path, config: Mapping[str, Any], folder: Path) -> None:
    """Copies generation_config.json, or writes one of what config.json says begins, ends and pads a text."""
    if (source / GENERATION).is_file():
        shutil.copyfile(source / GENERATION, folder / GENERATION)
        return
    ids = {name: config[name] for name in IDS if config.get(name) is not None}
    (folder / GENERATION).write_text(json.dumps(ids, indent=2) + "\n", encoding="utf-8")


def _with_all_rows(place: Path, family: str, made: Mapping[str, Later]) -> dict[str, Later]:
    """Embeddings and head followed by the rows that the folder has beyond them."""
    tensors, rules = Tensors(place), {rule.ours: rule.theirs for rule in rules_of(family)}
    names = {renamed(name, NAMES): name for name in tensors}
    longer = {}
    for path in ("embed/embedding", "head/embedding"):
        if path in made:
            table, theirs = made[path], rules[path]
            name = names.get(theirs) or names[theirs.partition(".")[2]]

            def whole(table: Later = table, name: str = name) -> np.ndarray:
                return np.concatenate([table.made(), tensors[name][table.shape[0] :].astype(table.dtype)])

            longer[path] = table._replace(shape=tensors.shape(name), made=whole)
    return longer


def _config(config: Mapping[str, Any], o: Options, dtype: str) -> dict[str, Any]:
    """config.json with the sizes of `o`; ValueError where it would be read as another network."""
    family, sizes = config["model_type"], sizes_of(config["model_type"])
    changed = {sizes["vocabulary"]: o.vocabulary, sizes["depth"]: o.depth, "tie_word_embeddings": o.tied}
    if config.get(sizes["depth"]) != o.depth and family != "gpt2":
        changed |= layers_in_config(o, family)
    plain = {name: value for name, value in config.items() if name != PACKED}  # what is written is not packed
    made = {**plain, **changed, "torch_dtype": dtype, "dtype": dtype}
    again = Options(**options_of(made))
    if wrong := differences(o, again):
        told = ", ".join(f"{n}={getattr(o, n)!r} (would be read as {getattr(again, n)!r})" for n in wrong)
        raise ValueError(f"{family!r} of transformers has no such network: {told}.")
    return made
