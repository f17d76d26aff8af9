"""python -m kd_jax.export RUN_OR_EXPORT --to=stablehlo,onnx,litert,safetensors [--int8] [--out=DIR]

RUN_OR_EXPORT is a workdir, the folder of a training in it, or of an export, as kd_jax.load takes it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Exports, prints a table, and ends with 1 and one line where something does not fit."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    asked = _parser().parse_args(arguments)
    try:
        from kd_jax.export.command import command  # here: JAX reads its environment when it is imported

        command(asked)
    except (ValueError, OSError, ImportError) as e:
        if os.environ.get("KD_JAX_TRACEBACK"):
            raise
        sys.exit(f"\n{type(e).__name__}: {e}\n(KD_JAX_TRACEBACK=1 shows where.)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m kd_jax.export", description=__doc__, formatter_class=_Plain)
    add = parser.add_argument
    add("path", type=Path, metavar="RUN_OR_EXPORT")
    add("--to", default="stablehlo,safetensors", help="stablehlo, onnx, litert, safetensors, huggingface, web")
    add("--out", type=Path, help="default: the folder `exported` of the training, or beside the export")
    add("--int8", action="store_true", help="ONNX with weights of 8 bits too, dynamic and static")
    add("--data", type=Path, help="real examples, .npy or .npz, where the test split of the run is not at hand")
    add("--inputs", choices=("raw", "prepared"), default="raw", help="whether the preparation is inside the files")
    add("--which", choices=("best", "last"), default="", help="default: the best step where there is one")
    add("--tolerance", type=float, help="largest difference that passes, relative to the largest output")
    add("--agreement", type=float, help="least share of equal answers that passes")
    add("--teacher", type=Path, help="the export of the teacher on the web page; default: that of the run")
    return parser


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Leaves the lines of the description as they are."""


if __name__ == "__main__":
    main()
