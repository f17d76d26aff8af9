"""Likeliest tokens and their log-probabilities, as other tools write them: DistillKit's Parquet, MaxText's ArrayRecord.

DistillKit (Arcee AI, github.com/arcee-ai/DistillKit, sample_logits_vllm): a folder of data_*.parquet with `input_ids`,
`compressed_logprobs` and `bytepacked_indices`, and compression_config.yaml, or with `token_ids` and `top_values` as
they are. The k values fall; the first `exact_k` are stored, the others as a polynomial of their rank, with or without
quantised residuals; classes are packed into ceil(log2(d)) bits each, the highest first. Row i is of the token after
input_ids[i].

MaxText (Google, AI-Hypercomputer/maxtext, save_top_k_teacher_logits): .array_record files of tf.train.Example with
`inputs`, `top_k_logits` and `top_k_indices`, flat, and maybe `targets`, `targets_segmentation`, `inputs_segmentation`.
The values are logits: what the other tokens have is not stored, so the k share all of the probability here. Older
versions wrote pickles, which can run code and are not read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kd_jax.data.answers import dtype_of
from kd_jax.data.images.arrow import parquet, pyarrow

CONFIG, RECORDS = "compression_config.yaml", ".array_record"
TERMS = {"sqrt": np.sqrt, "exp": np.exp}
ROW = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # tokens, labels, segments, ids, log-probs


@dataclasses.dataclass(frozen=True, eq=False)
class TopK:
    """Rows of tokens, padded to the longest: tokens, labels (-1 where none is learned) and segments int32 [n, L].

    `ids` int32 and `log_probs` float32 [n, L, k] are the likeliest tokens at each label; padding has equal ones.
    `vocabulary` is the number of tokens, as far as the file tells it.
    """

    tokens: np.ndarray
    labels: np.ndarray
    segments: np.ndarray
    ids: np.ndarray
    log_probs: np.ndarray
    vocabulary: int

    def answers(self) -> dict[str, np.ndarray]:
        return {"top_log_probs": self.log_probs, "top_ids": self.ids}


def is_topk(path: Path) -> bool:
    """Returns whether a file or folder is one of DistillKit or MaxText, by its names and columns."""
    if _records(path):
        return True
    files = _tables(path)
    return bool(files) and "input_ids" in parquet().read_schema(files[0]).names


def read(path: Path) -> TopK:
    """Reads the rows; raises ValueError for a damaged file, pickles, and a folder without its config."""
    if files := _records(path):
        rows = [_of_example(file, record) for file in files for record in _read_records(file)]
        return _padded(path, rows, 0)
    return _of_tables(path, _tables(path))


def _records(path: Path) -> list[Path]:
    return sorted(path.glob(f"*{RECORDS}")) if path.is_dir() else [path] if path.suffix == RECORDS else []


def _tables(path: Path) -> list[Path]:
    if path.is_dir():  # data_10.parquet comes after data_9.parquet
        return sorted(path.glob("*.parquet"), key=lambda p: (len(p.name), p.name))
    return [path] if path.suffix == ".parquet" else []


def _padded(path: Path, rows: Sequence[ROW], vocabulary: int) -> TopK:
    if not rows:
        raise ValueError(f"{path} has no rows.")
    ks = {row[3].shape[1] for row in rows}
    if len(ks) != 1:
        raise ValueError(f"{path}: one number k of tokens is expected at every place, there are {sorted(ks)}.")
    (k,), length = ks, max(len(row[0]) for row in rows)
    shape = (len(rows), length)
    tokens, labels, segments = np.zeros(shape, np.int32), np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    ids = np.broadcast_to(np.arange(k, dtype=np.int32), (*shape, k)).copy()
    log_probs = np.full((*shape, k), -math.log(k), np.float32)
    for i, row in enumerate(rows):
        for whole, part in zip((tokens, labels, segments, ids, log_probs), row, strict=True):
            whole[i, : len(part)] = part
    size = max(vocabulary, 1 + int(max(tokens.max(), labels.max(), ids.max())))
    if vocabulary and size > vocabulary:
        raise ValueError(f"{path}: there is a token {size - 1}, and the config says that there are {vocabulary}.")
    return TopK(tokens, labels, segments, ids, log_probs, size)


def _of_tables(path: Path, files: Sequence[Path]) -> TopK:
    pa, rows, config = pyarrow(), [], None
    for file in files:
        try:
            table = parquet().read_table(file)
        except (pa.ArrowInvalid, OSError) as e:
            raise ValueError(f"{file} cannot be read as Parquet: {e}") from e
        names = {*table.column_names}
        if {"input_ids", "compressed_logprobs", "bytepacked_indices"} <= names:
            config = config or _config(file.parent / CONFIG)
            columns = ("input_ids", "compressed_logprobs", "bytepacked_indices")
        elif {"input_ids", "token_ids", "top_values"} <= names:
            columns = ("input_ids", "token_ids", "top_values")
        else:
            raise ValueError(
                f"{file} has the columns {', '.join(sorted(names))}; expected input_ids, compressed_logprobs and "
                "bytepacked_indices, or input_ids, token_ids and top_values (older files of DistillKit are not read)."
            )
        for number, row in enumerate(zip(*(table[name].to_pylist() for name in columns), strict=True)):
            where = f"{file}, row {number}"
            if config is None:
                ids, values = np.array(row[1], np.int32), np.array(row[2], np.float32)
            else:
                values = decompressed(where, np.array(row[1], np.uint8), config)
                bits = _bits(config["d"])
                ids = _unpacked(np.array(row[2], np.uint8), bits, config["k"]).astype(np.int32)
            rows.append(_shifted(where, np.array(row[0], np.int32), ids, values))
    return _padded(path, rows, config["d"] if config else 0)


def _config(path: Path) -> dict[str, Any]:
    defaults = {"polynomial_terms": None, "exact_dtype": "float32", "term_dtype": "float32"}
    defaults |= {"delta_encoding": True, "normalize_t": False, "residual_bins": []}
    if not path.is_file():
        raise ValueError(f"DistillKit's rows are compressed as {path} says, which is not there.")
    try:
        config = {**defaults, **yaml.safe_load(path.read_text())}
        return {**config, **{name: int(config[name]) for name in ("d", "k", "exact_k")}}
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as e:
        raise ValueError(f"{path} is no config of DistillKit's compression: {e!r}.") from e


def _shifted(where: str, tokens: np.ndarray, ids: np.ndarray, values: np.ndarray) -> ROW:
    """The row of the tokens of which the next one is there."""
    if ids.ndim != 2 or ids.shape != values.shape or len(ids) not in (len(tokens), len(tokens) - 1):
        raise ValueError(f"{where}: {len(tokens)} tokens, ids {ids.shape} and log-probabilities {values.shape}.")
    count = len(tokens) - 1
    order = np.argsort(-values[:count], axis=-1, kind="stable")
    ids, values = (np.take_along_axis(x[:count], order, axis=-1) for x in (ids, values))
    # A polynomial may give the k tokens more than all of the probability.
    mass = np.logaddexp.reduce(values.astype(np.float64), axis=-1, keepdims=True)
    values = (values - np.maximum(mass, 0)).astype(np.float32)
    return tokens[:-1], tokens[1:], np.ones(count, np.int32), ids, values


def _bits(size: int) -> int:
    return max(1, math.ceil(math.log2(size)))


def _unpacked(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """int64 [n, count] from uint8 [n, bytes]: numbers of so many bits, the highest first."""
    flat = np.unpackbits(packed, axis=-1)[:, : bits * count].reshape(len(packed), count, bits)
    return flat @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))


def _packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    flat = (numbers[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(flat.astype(np.uint8).reshape(len(numbers), -1), axis=-1)


def decompressed(where: str, data: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """Returns float32 [n, k] from DistillKit's bytes uint8 [n, bytes]; ValueError where they are too few."""
    place = 0

    def take(dtype: str, count: int) -> np.ndarray:
        nonlocal place
        start, place = place, place + count * dtype_of(dtype).itemsize
        if data.ndim != 2 or place > data.shape[1]:
            raise ValueError(f"{where}: {data.shape} bytes are fewer than the config asks for.")
        return np.ascontiguousarray(data[:, start:place]).view(dtype_of(dtype)).astype(np.float32)

    exact = take(config["exact_dtype"], config["exact_k"])
    rest = config["k"] - config["exact_k"]
    others = np.zeros((len(data), rest), np.float32)
    if terms := config["polynomial_terms"] or ():
        factors = take(config["term_dtype"], len(terms))
        ranks = np.linspace(0, 1, rest) if config["normalize_t"] else np.arange(rest, dtype=np.float64)
        powers = np.stack([ranks**t if isinstance(t, int) else TERMS[t](ranks) for t in terms])
        others += factors @ powers.astype(np.float32)
    first = 0
    for part in config["residual_bins"]:
        count, bits = part["num_elements"], part["element_bits"]
        scale = take(part["scale_dtype"], 1)
        codes = _unpacked(take("uint8", -(-count * bits // 8)).astype(np.uint8), bits, count)
        levels = 2.0 * codes - 1 if bits == 1 else codes - 2.0 ** (bits - 1)
        others[:, first : first + count] += levels.astype(np.float32) * scale
        first += count
    values = np.concatenate([exact, others], axis=-1)
    return np.cumsum(values, axis=-1, dtype=np.float32) if config["delta_encoding"] else values


def write_distillkit(folder: Path, rows: TopK) -> None:
    """Writes a folder that DistillKit reads as a data set: all k values exact, in float32."""
    pa, k, bits = pyarrow(), rows.ids.shape[-1], _bits(rows.vocabulary)
    config = {"d": rows.vocabulary, "k": k, "exact_k": k, "exact_dtype": "float32", "polynomial_terms": None}
    config |= {"term_dtype": "float32", "residual_bins": [], "delta_encoding": False, "error_diffusion": False}
    columns: dict[str, list[Any]] = {"input_ids": [], "compressed_logprobs": [], "bytepacked_indices": []}
    for tokens, labels, _, ids, log_probs in _unpadded(rows):
        columns["input_ids"].append([*tokens.tolist(), max(int(labels[-1]), 0)])
        columns["compressed_logprobs"].append(np.ascontiguousarray(log_probs).view(np.uint8).tolist())
        columns["bytepacked_indices"].append(_packed(ids.astype(np.int64), bits).tolist())
    kinds = {"input_ids": pa.list_(pa.uint64())} | dict.fromkeys([*columns][1:], pa.list_(pa.list_(pa.uint8())))
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array(values, kinds[name]) for name, values in columns.items()})
    parquet().write_table(table, folder / "data_0.parquet")
    (folder / CONFIG).write_text(yaml.safe_dump(config))


def _unpadded(rows: TopK) -> Iterator[ROW]:
    for i, segments in enumerate(rows.segments):
        count = int(np.flatnonzero(segments)[-1]) + 1 if segments.any() else 0
        if count:
            parts = (rows.tokens, rows.labels, rows.segments, rows.ids, rows.log_probs)
            tokens, labels, segments, ids, log_probs = (part[i, :count] for part in parts)
            yield tokens, labels, segments, ids, log_probs


def _read_records(file: Path) -> list[bytes]:
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(file))
        records = reader.read_all()
        reader.close()
    except (RuntimeError, ValueError, IndexError) as e:
        raise ValueError(f"{file} cannot be read as ArrayRecord: {e}") from e
    if records and records[0][:1] == b"\x80":
        raise ValueError(
            f"{file} holds pickles, which can run code and are not read: MaxText's newer save_top_k_teacher_logits "
            "writes tf.train.Example."
        )
    return records


def _example() -> Any:
    """The class tf.train.Example, of TFDS, which has it without TensorFlow."""
    from tensorflow_datasets.proto import tf_example_pb2

    return vars(tf_example_pb2)["Example"]


def _of_example(file: Path, record: bytes) -> ROW:
    from google.protobuf.message import DecodeError

    try:
        features = _example().FromString(record).features.feature
    except DecodeError as e:
        raise ValueError(f"{file} holds a record that is no tf.train.Example: {e}") from e
    names = sorted(features)
    if missing := {"inputs", "top_k_logits", "top_k_indices"} - {*names}:
        raise ValueError(f"{file}: a record lacks {', '.join(sorted(missing))}; it has {', '.join(names)}.")

    def integers(name: str) -> np.ndarray:
        return np.array(features[name].int64_list.value, np.int32)

    tokens = integers("inputs")
    logits = np.array(features["top_k_logits"].float_list.value, np.float32)
    if not len(tokens) or not len(logits) or len(logits) % len(tokens):
        raise ValueError(f"{file}: {len(logits)} values are no whole number for each of {len(tokens)} tokens.")
    logits = logits.reshape(len(tokens), -1)
    ids = integers("top_k_indices").reshape(logits.shape)
    log_probs = logits - np.logaddexp.reduce(logits.astype(np.float64), axis=-1, keepdims=True)
    labels = integers("targets") if "targets" in features else np.append(tokens[1:], -1).astype(np.int32)
    if "targets_segmentation" in features:
        labels = np.where(integers("targets_segmentation") > 0, labels, -1)
    segments = integers("inputs_segmentation") if "inputs_segmentation" in features else np.ones_like(tokens)
    return tokens, labels, segments, ids, log_probs.astype(np.float32)


def write_maxtext(file: Path, rows: TopK) -> None:
    """Writes an .array_record of tf.train.Example as MaxText does; its logits are the log-probabilities."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(file), "group_size:1")
    for i in range(len(rows.tokens)):
        segments = rows.segments[i]
        starts = np.flatnonzero(np.diff(segments, prepend=-1))
        position = np.arange(len(segments)) - np.repeat(starts, np.diff([*starts, len(segments)]))
        example = _example()()
        integers = {"inputs": rows.tokens[i], "targets": np.maximum(rows.labels[i], 0), "inputs_position": position}
        integers |= {"inputs_segmentation": segments, "targets_segmentation": segments * (rows.labels[i] >= 0)}
        integers |= {"top_k_indices": rows.ids[i]}
        for name, values in integers.items():
            example.features.feature[name].int64_list.value.extend(values.reshape(-1).tolist())
        example.features.feature["top_k_logits"].float_list.value.extend(rows.log_probs[i].reshape(-1).tolist())
        writer.write(example.SerializeToString())
    writer.close()
