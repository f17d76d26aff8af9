"""A model card beside an exported student: kd-jax card RUN [--license=apache-2.0] [--which=best].

README.md in the form of the Hugging Face Hub: YAML front matter, then the verdict, scores, provenance and limits of the
run, and the three lines that load the network.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_jax.files import path_of
from kd_jax.system.exports import CARD, read_info
from kd_jax.tasks.units import name_of, unit_of
from kd_jax.train.found import find_export
from kd_jax.types import Headline

RESULTS = "results.json"
# The words of the Hub for what a network does, by the task and what an example is.
PIPELINES = {
    ("classify", "image"): "image-classification",
    ("classify", "sequence"): "text-classification",
    ("classify", "example"): "tabular-classification",
    ("regress", "example"): "tabular-regression",
    ("tokens", "sequence"): "text-generation",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the command line, writes the card and says where; ends with one line for whatever does not fit."""
    parser = argparse.ArgumentParser("kd-jax card", description=__doc__)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--license", default="unknown", help="as the Hub calls it, such as apache-2.0")
    parser.add_argument("--which", default="", help="best or last")
    asked = parser.parse_args(arguments)
    try:
        print(f"Card: {write_card(asked.run, asked.license, asked.which)}")
    except (ValueError, OSError) as e:
        sys.exit(f"{type(e).__name__}: {e}")


def write_card(run: str | Path, license: str = "unknown", which: str = "") -> Path:
    """Writes README.md into the export that kd_jax.load(run) reads, and returns its path.

    Raises ValueError where no results.json of the run lies above the export.
    """
    folder = find_export(path_of(run, "card"), which)
    info = read_info(folder)
    above = [parent / RESULTS for parent in folder.absolute().parents[:4] if (parent / RESULTS).is_file()]
    if not above:
        raise ValueError(f"There is no {RESULTS} above {folder}: a card tells of a whole run, which ends with it.")
    results = json.loads(above[0].read_text())
    place = folder / CARD
    scratch = place.with_name(f"{CARD}.tmp")
    scratch.write_text(card(info, results, license), encoding="utf-8")
    scratch.replace(place)
    return place


def card(info: Mapping[str, Any], results: Mapping[str, Any], license: str) -> str:
    """Returns the text of a card from model.json and results.json."""
    headline, data, task = Headline(**results["headline"]), results["data"], info["task"]["name"]
    value = (info["scores"].get("test", {}).get(info["entry"]) or {}).get(headline.metric)
    pipeline = PIPELINES.get((task, data["noun"]))
    front: list[str] = [f"license: {license}", "library_name: jax", "tags:"]
    front += [f"- {tag}" for tag in ("jax", "flax", "knowledge-distillation", "kd_jax")]
    front += [f"pipeline_tag: {pipeline}"] if pipeline else []
    if value is not None:
        result = [
            {
                "task": {"type": pipeline or task},
                "dataset": {"name": data["name"], "type": data["name"], "split": "test"},
                "metrics": [{"type": headline.metric, "value": value}],
            }
        ]
        front.append(f"model-index: {json.dumps([{'name': results['title'], 'results': result}])}")
    return "\n".join(["---", *front, "---", "", *_body(info, results, headline)]) + "\n"


def _body(info: Mapping[str, Any], results: Mapping[str, Any], headline: Headline) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    data, architecture = results["data"], info["architecture"]
    spec, text = info["input"], unit_of(headline).text
    lines = [f"# {results['title']}", "", (results.get("verdict") or {}).get("text") or "The run has no verdict.", ""]
    lines += ["## Use", "", "```python", "import kd_jax", "", 'network = kd_jax.load("FOLDER")  # this folder']
    lines += ["network.predict(raw)", "```", ""]
    lines += [f"`raw` are examples as they lie in the data, [n, {', '.join(map(str, spec['shape']))}] {spec['dtype']}"]
    lines[-1] += f"; what comes back is {info['task']['predicts'] or 'what the task says'}."
    lines += ["", "## Scores", "", f"| network | {name_of(headline)} (test) | parameters |", "|---|---|---|"]
    for role, model in results["models"].items():
        value = (model.get(info["which"], model["last"]).get("test") or {}).get(headline.metric)
        shown = "not measured" if value is None else text(value)
        lines.append(f"| {role} ({model['name']}) | {shown} | {model.get('parameters', 'not counted')} |")
    counts = ", ".join(f"{name} {data[name]}" for name in ("train", "labelled", "transfer", "validation", "test"))
    lines += ["", f"This folder holds the {info['role']} of the {info['which']} step, {info['scores']['step']}.", ""]
    lines += ["## Provenance", "", f"- Network: `{architecture['name'] or architecture['class']}`"]
    lines += [
        f"- Data: {data['name']} ({counts})",
        f"- Seed: {info['seed']}",
        f"- Code: {info['git'] or 'no checkout'}",
    ]
    lines += [f"- Command: `{results.get('command') or 'not recorded'}`", f"- Versions: {versions}", ""]
    lines += ["## Limits", "", f"- It was trained and scored on {data['name']}; on other data nothing is known of it."]
    lines += ["- One run with one seed; the scores have the sampling error of the test set and that between seeds."]
    lines += ["- Errors of the teacher are learned with what it knows. Licences of data and teacher apply as well."]
    return lines
