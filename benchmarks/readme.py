"""The tables of the documentation, from the files of the same name in benchmarks/results.

python -m benchmarks.readme      writes what stands between <!-- methods --> and <!-- /methods -->, and so on, wherever
                                 these markers are in README.md, docs/ and benchmarks/NOTES.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import compress_tables, fields
from benchmarks.common import RESULTS
from benchmarks.papers import PAPERS
from kd_jax.config import PRESETS

PLAIN = (
    "images",
    "weights",
    "cache_accuracy",
    "cache_language",
    "answers",
    "language",
    "fairness",
    "capacity",
    "compress_decoder",
    "compress_encoder",
    "compress_speed",
    "measures",
    "tabular",
)
ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "NOTES.md")


def record(name: str) -> dict[str, Any]:
    """Returns what a benchmark left in benchmarks/results."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise SystemExit(f"There is no {path}: python -m benchmarks.{name} makes it.")
    return json.loads(path.read_text())


def results(name: str) -> list[dict[str, Any]]:
    """Returns the rows of a benchmark's record."""
    return record(name)["rows"]


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    return [f"| {' | '.join(map(str, cells))} |" for cells in (columns, ["---"] * len(columns), *rows)]


def function(preset: str) -> str:
    """Returns the loss that makes the preset: that of the last term which is not the cross-entropy on labels."""
    names = [fields["fn"] for name, fields in PRESETS[preset]().items() if name != "ce"]
    return names[-1].removeprefix("losses.")


def main_table() -> list[str]:
    columns = {
        "digits100": "digits, 100 labels",
        "digitsall": "digits, all 1,257 labels",
        "fashion": "Fashion-MNIST, 1,000 labels",
    }
    scores: dict[str, dict[str, str]] = {}
    for row in results("main_table"):
        scores.setdefault(row["knowledge"], {})[row["data"]] = row["last step"]
    return table(
        ("knowledge", *columns.values()), ((name, *(by_data[d] for d in columns)) for name, by_data in scores.items())
    )


def methods() -> list[str]:
    scores = {"digits": {}, "fashion": {}}
    for row in results("methods"):
        scores[row["data"]][row["knowledge"]] = row["last step"]

    def line(name: str, *cells: str) -> tuple[str, ...]:
        return *cells, *(by_name.get(name, "-") for by_name in scores.values())

    return table(
        ("method", "function in `losses/`", "paper", "digits", "Fashion-MNIST"),
        [line(name, f"*{name}*", "", "") for name in ("teacher", "baseline (labels only)")]
        + [line(name, f"`{name}`", f"`{function(name)}`", paper) for name, paper in PAPERS.items()],
    )


def schemes() -> list[str]:
    variants: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in results("schemes"):
        variants.setdefault(f"`{row['config']}:{row['variant']}`", {})[row["what"]] = row
    lines = []
    for variant, networks in variants.items():
        trio = (networks[name]["last step"] if name in networks else "-" for name in ("teacher", "baseline", "student"))
        others = [f"{n.removeprefix('student: ')} {row['last step']}" for n, row in networks.items() if ": " in n]
        lines.append((variant, *trio, "; ".join(others) or "-", networks["student"]["ratio"]))
    return table(("config:variant", "teacher", "student alone", "student", "others", "ratio"), lines)


def sweep() -> list[str]:
    kinds = ("vmap", "map", "unroll")
    lines = []
    for row in results("sweep"):
        ratios = (f"{row[f'{kind} / limit']} / {row[f'{kind} / separate']}" for kind in kinds)
        whole = f"{row['total']} (`{row['chosen']}`)" if "total" in row else "-"
        lines.append((row["student"], row["n"], *ratios, whole))
    return table(("student", "n", *(f"`{kind}`" for kind in kinds), "whole (chosen)"), lines)


def cache() -> list[str]:
    rows = sorted(results("cache"), key=lambda row: row["step"] != "student only")
    return table(
        ("step", "ms", "over that of the student only"),
        ([row[c] for c in ("step", "ms", "/ student only")] for row in rows),
    )


def encoders() -> list[str]:
    students = ("3 layers", "narrow")
    scores: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in results("encoders"):
        if "accuracy" in row and row["method"] != "sentence":
            scores.setdefault(row["method"], {})[row["student"]] = row
    lines = [("teacher, 6 layers", scores["response"]["3 layers"]["teacher"], "", "", "")]
    for method, by_student in scores.items():
        rows = (by_student.get(student, {}) for student in students)
        lines.append((method, *(row.get(name, "-") for row in rows for name in ("accuracy", "agreement"))))
    return table(
        ("method", *(head for student in students for head in (f"{student}, accuracy", "agreement with teacher"))),
        lines,
    )


def decoders() -> list[str]:
    speeds = {row["step"]: f"{row['tokens/s']:,}" for row in results("decoders")}
    columns = {
        "kd_jax": "kd_jax {}",
        "kd_jax, fused": "kd_jax {}, fused",
        "PyTorch eager": "PyTorch eager {}",
        "`torch.compile`": "PyTorch compiled {}",
    }
    lines = [(loss, *(speeds[c.format(loss)] for c in columns.values())) for loss in ("forward KL", "JSD")]
    lines.append(("generation of 64 tokens", speeds["kd_jax generate"], "-", speeds["PyTorch generate"], "-"))
    return table(("tokens/s", *columns), lines)


def torch_peer() -> list[str]:
    names = {
        "resnet56_resnet20": "ResNet56 to ResNet20",
        "wrn40-2_wrn16-2": "WRN-40-2 to WRN-16-2",
        "resnet32x4_resnet8x4": "ResNet32x4 to ResNet8x4",
        "vit-l_vit-s": "ViT (192 wide, 6 blocks) to ViT (64 wide, 3 blocks)",
    }
    columns = {
        "here": "kd_jax examples/s",
        "PyTorch eager": "eager examples/s",
        "channels_last": "channels_last examples/s",
        "`torch.compile`": "compiled examples/s",
        "torchdistill": "torchdistill examples/s",
        "here / eager": "kd_jax / eager",
        "here / torchdistill": "kd_jax / torchdistill",
    }
    rows = results("torch_peer")
    return table(("pair", *columns), ((names[row["pair"]], *(row[c] for c in columns.values())) for row in rows))


def vocabulary() -> list[str]:
    lines = []
    for row in results("vocabulary"):
        size = f"{row['tokens']:,} x {row['classes']:,}"
        if "wall" in row:
            cells = (f"{row['plain s']} s", f"{row['fused s']} s", "", f"x {row['wall']}", f"x {row['cpu']}")
        else:
            both = (f"{row[f'{kind} temp MB']:,} MB" for kind in ("plain", "fused"))
            cells = (*both, f"/ {row['plain/fused temp']}", "", "")
        lines.append((row["loss"], size, row["widths"], row["dtype"], *cells))
    columns = "loss, tokens x classes, widths, dtype, plain, fused, memory saved, time, processor time"
    return table(columns.split(", "), lines)


def trajectories() -> list[str]:
    """Returns the table of the cases; a note, or a limit that is not that of all, stands behind the method."""
    columns = ("reference", "loss", "weights", "loss of moved", "weights of moved", "weights of labels alone")
    return table(
        ("method", *columns),
        ((f"{row['method']}{_note(row)}", *(row[c] for c in columns)) for row in results("trajectories")),
    )


def _note(row: Mapping[str, Any]) -> str:
    parts = [row["note"]] if row["note"] else []
    parts += [f"limit {row['limit']}"] if float(row["limit"]) != 1e-6 else []
    return f" ({'; '.join(parts)})" if parts else ""


def trajectories_without() -> list[str]:
    reasons: dict[str, list[str]] = {}
    for preset, reason in record("trajectories")["without"].items():
        reasons.setdefault(reason, []).append(f"`{preset}`")
    return table(("presets", "why"), ((", ".join(presets), reason) for reason, presets in reasons.items()))


def foundation() -> list[str]:
    """Returns the table of the encoders."""
    kinds = {"knn_accuracy": "neighbours", "probe_accuracy": "probe", "recall": "pairs found", "rank": "effective rank"}
    rows = [row for row in results("foundation") if not row["variant"].startswith("crd")]
    return table(
        ("variant", "network", *kinds.values()),
        ((f"`{row['variant']}`", row["network"], *(_spread(row, kind) for kind in kinds)) for row in rows),
    )


def foundation_crd() -> list[str]:
    """Returns the table of CRD with a bank and with a queue."""
    rows = [row for row in results("foundation") if row["variant"].startswith("crd")]
    cells = [(row, f"{row['memory_bytes']:,}" if "memory_bytes" in row else "-") for row in rows]
    return table(
        ("variant", "network", "accuracy", "bytes of the memory"),
        ((f"`{row['variant']}`", row["network"], _spread(row, "accuracy"), size) for row, size in cells),
    )


def _spread(row: Mapping[str, Any], metric: str) -> str:
    return f"{row[metric]:.1f} ± {row[f'{metric}_std']:.1f}" if metric in row else "-"


def plain(name: str) -> list[str]:
    """Returns the rows as they are."""
    rows = results(name)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return table(columns, ([row.get(c, "-") for c in columns] for row in rows))


def written(pages: Mapping[Path, str], name: str, lines: Sequence[str]) -> dict[Path, str]:
    """Returns the pages with the lines between the markers of `name`, which stand in one place of one page."""
    place = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", flags=re.S)
    count = sum(len(place.findall(text)) for text in pages.values())
    if count != 1:
        raise SystemExit(f"README.md, docs/ and benchmarks/NOTES.md have {count} places for the table of {name}.")
    block = "\n".join((f"<!-- {name} -->", *lines, f"<!-- /{name} -->"))
    return {path: place.sub(lambda _: block, text) for path, text in pages.items()}


def with_tables(pages: Mapping[Path, str]) -> Mapping[Path, str]:
    """Returns the pages with every table as the records in benchmarks/results have it."""
    makers = (main_table, methods, schemes, cache, sweep, encoders, decoders, torch_peer, vocabulary)
    makers += (trajectories, trajectories_without, foundation, foundation_crd, policies, fields_table)
    tables = {maker.__name__: maker() for maker in makers} | {name: plain(name) for name in PLAIN}
    tables |= {name: table(*made) for name, made in compress_tables.of(results("compress")).items()}
    for name, lines in tables.items():
        pages = written(pages, name, lines)
    return pages


def policies() -> list[str]:
    """Returns the rows of configs/policy.py, as benchmarks.fields writes them."""
    return fields.markdown([row for row in results("fields") if row["config"] == "policy"]).splitlines()


def fields_table() -> list[str]:
    """Returns the rows of the other configs of benchmarks.fields."""
    return fields.markdown([row for row in results("fields") if row["config"] != "policy"]).splitlines()


def main() -> None:
    for path, text in with_tables({path: path.read_text(encoding="utf-8") for path in PAGES}).items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
