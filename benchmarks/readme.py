"""The README's tables between markers, from the files of the same name in benchmarks/results.

python -m benchmarks.readme      writes what stands between <!-- methods --> and <!-- /methods -->, and so on
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from kd_jax.config.presets import PRESETS

PLAIN = ("weights", "cache_accuracy", "cache_language", "answers", "language")
README = Path(__file__).parent.parent / "README.md"
PAPERS = {
    "kd": "Hinton et al. 2015, 1503.02531",
    "soft_ce": "Hinton et al. 2015, 1503.02531",
    "logit_mse": "Ba & Caruana 2014, 1312.6184",
    "reverse_kl": "Gu et al. 2023, 2306.08543",
    "jsd": "Agarwal et al. 2023, 2306.13649",
    "skew_kl": "Ko et al. 2024, 2402.03898",
    "skew_reverse_kl": "Ko et al. 2024, 2402.03898",
    "akl": "Wu et al. 2024, 2404.02657",
    "tv": "Wen et al. 2023, 2307.15190",
    "dkd": "Zhao et al. 2022, 2203.08679",
    "nkd": "Yang et al. 2023, 2303.13005",
    "wsld": "Zhou et al. 2021, 2102.00650",
    "dist": "Huang et al. 2022, 2205.10536",
    "lskd": "Sun et al. 2024, 2403.01427",
    "ttm": "Zheng & Yang 2024, 2402.11148",
    "wttm": "Zheng & Yang 2024, 2402.11148",
    "mlkd": "Jin et al., CVPR 2023",
    "ctkd": "Li et al. 2022, 2211.16231",
    "topk_kd": "cached teachers (DistillKit)",
    "uld": "Boizard et al. 2024, 2402.12030",
    "feature": "Romero et al. 2014, 1412.6550",
    "fitnet": "Romero et al. 2014, 1412.6550",
    "at": "Zagoruyko & Komodakis 2016, 1612.03928",
    "nst": "Huang & Wang 2017, 1707.01219",
    "vid": "Ahn et al. 2019, 1904.05835",
    "ab": "Heo et al. 2018, 1811.03233",
    "ofd": "Heo et al. 2019, 1904.01866",
    "fsp": "Yim et al., CVPR 2017",
    "ft": "Kim et al. 2018, 1802.04977",
    "review_kd": "Chen et al. 2021, 2104.09044",
    "cat_kd": "Guo et al. 2023, 2304.12777",
    "ickd": "Liu et al., ICCV 2021",
    "pearson": "Cao et al. 2022, 2207.02039",
    "srrl": "Yang et al., ICLR 2021",
    "mgd": "Yang et al. 2022, 2205.01529",
    "simkd": "Chen et al. 2022, 2203.14001",
    "cwd": "Shu et al. 2020, 2011.13256",
    "affinity": "Liu et al. 2019, 1903.04197",
    "rkd": "Park et al. 2019, 1904.05068",
    "rkd_distance": "Park et al. 2019, 1904.05068",
    "rkd_angle": "Park et al. 2019, 1904.05068",
    "sp": "Tung & Mori 2019, 1907.09682",
    "pkt": "Passalis & Tefas 2018, 1803.10837",
    "cc": "Peng et al. 2019, 1904.01802",
    "irg": "Liu et al., CVPR 2019",
    "crd": "Tian et al. 2019, 1910.10699",
    "info_nce": "van den Oord et al. 2018, 1807.03748",
}


def results(name: str) -> list[dict[str, Any]]:
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise SystemExit(f"There is no {path}: python -m benchmarks.{name} makes it.")
    return json.loads(path.read_text())["rows"]


def function(preset: str) -> str:
    """The loss that makes the preset: that of the last term which is not the cross-entropy on labels."""
    names = [fields["fn"] for name, fields in PRESETS[preset]().items() if name != "ce"]
    return names[-1].removeprefix("losses.")


def methods() -> list[str]:
    rows = results("methods")
    found = {
        data: {r["knowledge"]: r["last step"] for r in rows if r["data"] == data} for data in ("digits", "fashion")
    }
    lines = ["| method | function in `losses/` | paper | digits | Fashion-MNIST |", "|---|---|---|---|---|"]

    def line(name: str, shown: str, *about: str) -> str:
        return f"| {shown} | {' | '.join(about)} | " + " | ".join(found[d].get(name, "-") for d in found) + " |"

    lines += [line(name, f"*{name}*", "", "") for name in ("teacher", "baseline (labels only)")]
    return lines + [line(n, f"`{n}`", f"`{function(n)}`", paper) for n, paper in PAPERS.items()]


def schemes() -> list[str]:
    lines = [
        "| config:variant | teacher | student alone | student | others | ratio |",
        "|---|---|---|---|---|---|",
    ]
    variants: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in results("schemes"):
        variants.setdefault((row["config"], row["variant"]), {})[row["what"]] = row
    for (config, variant), found in variants.items():

        def last(what: str, found: Mapping = found) -> str:
            return found[what]["last step"] if what in found else "-"

        others = [f"{what.removeprefix('student: ')} {row['last step']}" for what, row in found.items() if ": " in what]
        cells = [f"`{config}:{variant}`", last("teacher"), last("baseline"), last("student"), "; ".join(others) or "-"]
        lines.append(f"| {' | '.join(cells)} | {found['student']['ratio']} |")
    return lines


def vocabulary() -> list[str]:
    lines = [
        "| loss | tokens x classes | widths | dtype | plain | fused | memory saved | time | processor time |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results("vocabulary"):
        size = f"{row['tokens']:,} x {row['classes']:,}"
        if "wall" in row:
            found = (f"{row['plain s']} s", f"{row['fused s']} s", "", f"x {row['wall']}", f"x {row['cpu']}")
        else:
            both = (f"{row[f'{kind} temp MB']:,} MB" for kind in ("plain", "fused"))
            found = (*both, f"/ {row['plain/fused temp']}", "", "")
        lines.append(f"| {' | '.join((row['loss'], size, row['widths'], row['dtype'], *found))} |")
    return lines


def plain(name: str) -> list[str]:
    """The rows as they are."""
    rows = results(name)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return lines + [f"| {' | '.join(str(row.get(c, '-')) for c in columns)} |" for row in rows]


def main() -> None:
    text = README.read_text(encoding="utf-8")
    tables = {"methods": methods(), "schemes": schemes(), "vocabulary": vocabulary()}
    for name, lines in (tables | {name: plain(name) for name in PLAIN}).items():
        block = f"<!-- {name} -->\n" + "\n".join(lines) + f"\n<!-- /{name} -->"
        text, count = re.subn(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, block=block: block, text, flags=re.S)
        if count != 1:
            raise SystemExit(f"README.md has {count} places for the table of {name}.")
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
