"""The web page runs in a browser: it answers what JAX answers, to real examples and to what is drawn."""

import functools
import http.server
import json
import shutil
import threading

import numpy as np
import pytest
from exported import examples_of, student_of

from kd_jax.export import web
from kd_jax.export.run import export


@pytest.fixture
def page_of(tmp_path):
    """Serves the page of a student and a teacher to a browser: (width, height) -> a page that has answered once."""
    for package in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(package)
    playwright = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None or (shutil.which("npm") is None and not (web.cached() / web.FILES[0]).is_file()):
        pytest.skip("no Chromium, or no npm for onnxruntime-web")
    student, teacher = student_of("mlp"), student_of("mlp", seed=1)
    examples = examples_of(student)
    export(student, ["web"], tmp_path / "out", examples, teacher=teacher, measure=False)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "out" / "web")
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=browser, args=["--no-sandbox"])

        def opened(width, height):
            page = chromium.new_page(viewport={"width": width, "height": height})
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.wait_for_function(
                "document.body.dataset.answered || document.querySelector('.error')", timeout=120_000
            )
            return page

        yield opened, student, teacher, examples
        chromium.close()
    server.shutdown()


def test_page(page_of, tmp_path):
    opened, student, teacher, examples = page_of
    page = opened(1200, 800)
    assert page.locator(".error").count() == 0, page.locator("#state").inner_text()
    for number in range(3):
        page.locator("#examples canvas").nth(number).click()
        page.wait_for_function(f"Number(document.body.dataset.answered) >= {number + 2}")
        for role, network in (("student", student), ("teacher", teacher)):
            wanted = int(np.argmax(network.logits(web.of_each_class(examples, "image")[number])))
            assert page.locator(f"#{role} .answer").inner_text() == f"class {wanted}"
    page.click("#clear")
    box = page.locator("#drawing").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 20)
    page.mouse.up()
    page.wait_for_function("Number(document.body.dataset.answered) >= 6")
    drawn = np.asarray(page.evaluate("Array.from(pixels())"), np.uint8).reshape(8, 8, 1)
    assert drawn[:, 3:5].max() > 100 and drawn[:, 0].max() == 0
    assert page.locator("#student .answer").inner_text() == f"class {int(np.argmax(student.logits(drawn)))}"
    assert float(page.locator("#student .time").inner_text().split()[0]) >= 0
    phone = opened(390, 800)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390, "nothing sticks out of a phone"


def test_nothing_is_loaded_from_elsewhere():
    text = web.page({"title": "<b>", "shape": [8, 8, 1], "classes": ["</script>"], "networks": [], "examples": []})
    assert "http" not in text and "<b>" not in text and '"</script>' not in text
    facts = text.partition('id="about">')[2].partition("</script>")[0]
    assert json.loads(facts)["classes"] == ["</script>"]
