"""Where a pretrained model lies: a folder, an installed package, or the local cache of the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from kd_jax.files import path_of


def find_model(name: str, revision: str = "main") -> Path:
    """Returns the folder of `name`: itself; "package:NAME/PATH", inside an installed package; or a model id of the hub.

    An id ("org/model") is looked up in the local cache of huggingface_hub ($HF_HUB_CACHE, $HF_HOME/hub or
    ~/.cache/huggingface/hub); nothing is downloaded. ValueError says what was looked for, and which command gets it.
    """
    if name.startswith("package:"):
        package, _, inside = name.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"{name!r}: no package {package!r} is installed: pip install {package.replace('_', '-')}")
        folder = Path(spec.submodule_search_locations[0]) / inside
        if not folder.is_dir():
            raise ValueError(f"{name!r}: there is no folder {folder}.")
        return folder
    place = path_of(name, "the folder of a model")
    if place.is_dir():
        return place
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):  # no id of the hub
        what = "is a file" if place.is_file() else "is not there"
        raise ValueError(f"{name!r} {what}: expected the folder of a model, with its config.json and weights.")
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"
    reference = cache / "refs" / revision
    snapshot = cache / "snapshots" / (reference.read_text().strip() if reference.exists() else revision)
    if snapshot.is_dir():
        return snapshot
    raise ValueError(
        f"{name!r} is no folder, and {cache} holds no revision {revision!r} of it. For a model of the hub: "
        f"pip install huggingface_hub && hf download {name} --revision {revision}"
    )


def name_for_others(name: str) -> str:
    """Returns what other packages find the model `name` by from any folder: the id of the hub, or the whole path."""
    inside = name.startswith("package:") or path_of(name, "the folder of a model").is_dir()
    return str(find_model(name).absolute()) if inside else name
