"""report.html: one file with everything in it, readable by a person who never saw the run."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kd_jax.report import curves, exported, figures, sections, table, verdict
from kd_jax.report.examples import class_name, image_array, top_classes
from kd_jax.report.style import CSS, LIGHT
from kd_jax.report.verdict import number
from kd_jax.tasks.units import name_of, percent


def write_report(results: Mapping[str, Any], directory: str | os.PathLike[str]) -> Path:
    """Writes `directory`/report.html, which needs no other file and no network, and returns its path.

    `results` is the content of results.json; models, curves, examples and single numbers may be missing.
    """
    path = Path(directory) / "report.html"
    results = {"exports": exported.records_of(path.parent), **results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(results), encoding="utf-8")
    return path


def page(results: Mapping[str, Any]) -> str:
    """Returns the report as HTML."""
    title = escape(str(results.get("title") or "Distillation report"))
    parts = (_header, _verdict, _summary, _curves, _tradeoff, _exports, _sections, _use, _reproduce, _caveats)
    body = "\n".join(part for part in (section(results) for section in parts) if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def svg(figure: Figure, label: str, prefix: str) -> str:
    """Returns the figure as an <svg> element with the colours of the page, so that it follows light and dark."""
    buffer = io.StringIO()
    with figures.styled():
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    view, *_ = re.findall(r'viewBox="[^"]*"', text)
    text = re.sub(r"<svg[^>]*>", f'<svg {view} role="img" aria-label="{escape(label)}">', text, count=1)
    # Ids are unique in a figure only; the page holds several.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = text.replace("xlink:href", "href")
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", text)


def _figure(figure: Figure, label: str, prefix: str, caption: str = "") -> str:
    caption = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="card">{svg(figure, label, prefix)}{caption}</figure>'


def _section(title: str, lead: str, content: str) -> str:
    return f'<section>\n<h2>{escape(title)}</h2>\n<p class="lead">{escape(lead)}</p>\n{content}\n</section>'


def _header(results: Mapping[str, Any]) -> str:
    data, trained = results.get("data") or {}, verdict.models(results)
    names = [f"{role} {model['name']}" for role, model in trained.items() if model.get("name")]
    parts = [str(data.get("name") or ""), *names, str(results.get("device") or "")]
    line = " · ".join(part for part in parts if part)
    title = escape(str(results.get("title") or "Distillation report"))
    return f"<header>\n<h1>{title}</h1>\n<p>{escape(line)}</p>\n</header>"


def _verdict(results: Mapping[str, Any]) -> str:
    answer = verdict.judge(results)
    question = str(results.get("question") or "was it worth it?")
    facts = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for value, what in answer.facts)
    return (
        f'<section class="card verdict {answer.kind}">\n'
        f'<p class="question">{escape(question[:1].upper() + question[1:])}</p>\n'
        f'<p class="answer">{escape(answer.headline)}</p>\n'
        + "".join(f'<p class="why">{escape(text)}</p>\n' for text in answer.paragraphs)
        + (f'<dl class="facts">{facts}</dl>\n' if facts else "")
        + "</section>"
    )


def _summary(results: Mapping[str, Any]) -> str:
    rows, trained = table.rows(results), verdict.models(results)
    if not rows:
        return ""
    head = "".join(
        f'<th scope="col"><span class="name"><span class="dot" style="background:var(--{role})"></span>{role}</span>'
        f"<small>{escape(str(model.get('name') or ''))}</small></th>"
        for role, model in trained.items()
    )
    lines, section = [], None
    for row in rows:
        if row.section != section:
            section = row.section
            lines.append(
                f'<tr class="section"><th scope="colgroup" colspan="{1 + len(trained)}"><span>{escape(section)}</span>'
                "</th></tr>"
            )
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row.cells.values())
        lines.append(f'<tr><th scope="row">{escape(row.label)}</th>{cells}</tr>')
    body = "\n".join(lines)
    return _section(
        "The three models side by side" if len(trained) == 3 else "The models side by side",
        "The baseline is trained without a teacher. Error is one standard error of the test set. Latency and "
        f"throughput were measured on {results.get('device') or 'an unrecorded device'}.",
        f'<div class="card"><table>\n<thead><tr><td></td>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>',
    )


def _curves(results: Mapping[str, Any]) -> str:
    parts, evaluated = [], curves.evaluations(results)
    if curves.has_loss(results):
        figure = figures.figure_of([curves.draw_loss], results)
        parts.append(_figure(figure, "Loss of the student over steps", "loss"))
    if evaluated:
        figure = figures.figure_of([curves.draw_validation], results)
        parts.append(_figure(figure, "Validation scores of the models over steps", "validation"))
    if not parts:
        return ""
    lead = _lead_of_curves(results, evaluated)
    return _section("How they learned", lead, f'<div class="grid">{"".join(parts)}</div>')


def _lead_of_curves(results: Mapping[str, Any], evaluated: Mapping[str, int]) -> str:
    loss = "The student's loss with its terms" if curves.has_loss(results) else ""
    if not evaluated:
        return f"{loss}; nothing was evaluated on validation."
    metric = name_of(verdict.headline_of(results))
    scores = f"{'the' if loss else 'The'} {metric} on held-out {verdict.noun_of(results)}s"
    lead = f"{loss}, and {scores}. " if loss else f"{scores}. "
    if max(evaluated.values()) > 1:
        return lead + "Marks: the best steps. Equal curves are drawn side by side."
    return lead + "One evaluation each, so there are points and no curves: a smaller eval_every makes more."


def _tradeoff(results: Mapping[str, Any]) -> str:
    parts = [
        _figure(
            figures.figure_of([lambda axes, r, cost=cost: figures.draw_tradeoff(axes, r, cost)], results, 3.6),
            figures.tradeoff_title(results, cost),
            cost,
        )
        for cost in figures.COSTS
        if figures.has_tradeoff(results, cost)
    ]
    if not parts:
        return ""
    headline = verdict.headline_of(results)
    better = "Up" if headline.sign > 0 else "Down"
    return _section(
        f"Size, speed, {name_of(headline)}",
        f"{better} and to the left is better. Areas are proportional to the number of parameters; vertical lines are "
        "± two standard errors of the test set. Models of one cost stand side by side.",
        f'<div class="grid">{"".join(parts)}</div>',
    )


def _exports(results: Mapping[str, Any]) -> str:
    """The files that `python -m kd_jax.export` wrote, where it did."""
    if not results.get("exports"):
        return ""
    picture = ""
    if exported.points(results):
        figure = figures.figure_of([exported.draw], results, 3.6)
        picture = f'<div class="grid">{_figure(figure, "Exported files: accuracy against latency", "exports")}</div>'
    return _section(
        "The exported files",
        "Each ran in its own runtime on real test examples, in rounds with JAX's own program. Bytes are those of the "
        "file that ships, and areas are proportional to them; peak memory is that of a process that loads it.",
        f'{picture}<div class="card">{exported.table(results)}</div>',
    )


def _sections(results: Mapping[str, Any]) -> str:
    """What scheme and task alone know."""
    parts = []
    for i, section in enumerate(sections.all_sections(results)):
        content = _content(section, f"section{i}", verdict.noun_of(results))
        parts.append(_section(section["title"], section["lead"], content))
    return "\n".join(parts)


def _content(section: Mapping[str, Any], prefix: str, noun: str) -> str:
    if section["kind"] == "lines":
        figure = figures.figure_of([lambda axes, _: sections.draw_lines(axes, section)], {})
        return f'<div class="grid">{_figure(figure, section["title"], prefix)}</div>'
    if section["kind"] == "dots":
        return _figure(figures.plot_dots(section), section["title"], prefix)
    if section["kind"] == "examples":
        return _examples(section, noun)
    return sections.HTML[section["kind"]](section)


def _examples(section: Mapping[str, Any], noun: str) -> str:
    legend = "".join(
        f'<span><span class="dot" style="background:var(--{role})"></span>{role}</span>'
        for role in ("teacher", "student")
    )
    cards = "\n".join(_example(example, section["names"], noun) for example in section["examples"])
    return f'<p class="legend">{legend}</p>\n<div class="grid">\n{cards}\n</div>'


def _example(example: Mapping[str, Any], names: Sequence[str], noun: str) -> str:
    label, image = int(example["label"]), image_array(example)
    alt = f"test {noun}, {class_name(names, label)}"
    picture = f'<img src="{sections.png(image)}" alt="{escape(alt)}">' if image is not None else ""
    temperature = number(example, "temperature")
    softness = "" if temperature is None else f"<p>Softened at temperature {temperature:g}</p>"
    said = "".join(f"<dt>{who}</dt><dd>{what}</dd>" for who, what in _says(example, names))
    return (
        f'<div class="card example{"" if picture else " bare"}">{picture}<dl>{said}</dl>{softness}'
        f'<div class="bars">{_bars(example, names)}</div></div>'
    )


def _says(example: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, str]]:
    """(who, what they call the example, as HTML): the label, and the likeliest class by each model."""
    label = int(example["label"])
    says = [("label", f"<b>{escape(class_name(names, label))}</b>")]
    for role in verdict.ROLES:
        probabilities = example.get(role)
        if probabilities is not None:
            top = max(range(len(probabilities)), key=probabilities.__getitem__)
            wrong = ' <b class="wrong">✗</b>' if label >= 0 and top != label else ""
            says.append((role, f"{escape(class_name(names, top))}, {percent(probabilities[top])}{wrong}"))
    return says


def _bars(example: Mapping[str, Any], names: Sequence[str]) -> str:
    """The softened probabilities of teacher and student for the classes that are shown."""
    label, shown, roles = int(example["label"]), top_classes(example), ("teacher", "student")
    softened = {role: example[f"{role}_soft"] for role in roles if example.get(f"{role}_soft") is not None}
    largest = max(values[i] for values in softened.values() for i in shown) or 1.0
    bars = []
    for i in shown:
        lengths = "".join(
            f'<span class="bar"><i style="width:{80 * values[i] / largest:.1f}%;background:var(--{role})"></i>'
            f"{percent(values[i])}</span>"
            for role, values in softened.items()
        )
        hard = " hard" if i == label else ""
        bars.append(f'<span class="label{hard}">{escape(class_name(names, i))}</span><span>{lengths}</span>')
    return "".join(bars)


def _use(results: Mapping[str, Any]) -> str:
    export = (verdict.models(results).get("student") or {}).get("export")
    if not export:
        return ""
    lead = f"It lies in {export} beside this report. Examples are given as they lie in the data."
    lines = "import kd_jax\nstudent = kd_jax.load(&quot;.&quot;)  # the folder of this report\nstudent.predict(raw)"
    return _section("Use the student", lead, f'<div class="card"><pre>{lines}</pre></div>')


def _reproduce(results: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in (results.get("versions") or {}).items())
    data = results.get("data") or {}
    sizes = ("train", "labelled", "transfer", "validation", "test")
    counts = ", ".join(f"{name} {int(data[name]):,}" for name in sizes if number(data, name) is not None)
    seconds = number(results, "wall_seconds")
    facts = {
        "Command": f"<code>{escape(str(results['command']))}</code>" if results.get("command") else "",
        "Seed": escape(str(results.get("seed", ""))),
        "Code": f"<code>{escape(str(results['git']))}</code>" if results.get("git") else "",
        "Versions": escape(versions),
        "Device": escape(str(results.get("device") or "")),
        "Data": escape(f"{data.get('name') or 'unnamed'}: {counts}" if counts else ""),
        "Time in all": escape(verdict.duration(seconds)) if seconds is not None else "",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts.items() if text)
    config = json.dumps(results.get("config") or {}, indent=2, sort_keys=True, default=str)
    return _section(
        "Do it again",
        "The same command, seed, code and versions on the same kind of device should give the same numbers.",
        f'<div class="card"><dl class="facts-list">{listed}</dl>\n<details><summary>Configuration</summary>'
        f"<pre>{escape(config)}</pre></details></div>",
    )


def _caveats(results: Mapping[str, Any]) -> str:
    lines = "".join(f"<p>{escape(line)}</p>" for line in verdict.caveats(results))
    return f'<aside class="caveat">{lines}</aside>'
