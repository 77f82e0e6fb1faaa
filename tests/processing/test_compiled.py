"""Compiled functions load nothing that they do not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import numpy as np
from {module} import {decorator}

@{decorator}
def double(x):
    return 2 * x

assert double(np.float32(2)) == 4
print(sorted({{"awkward", "sparse"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("module", "decorator"), [("processing.kernels.compiled", "compiled"), ("sim.jit", "kernel")]
)
def test_extensions_of_other_packages_are_not_loaded(module: str, decorator: str, tmp_path: Path) -> None:
    """A release of numba that renames its switch would load them again."""
    script = tmp_path / "doubled.py"  # what is compiled is cached beside its file
    script.write_text(SCRIPT.format(module=module, decorator=decorator))
    path = ":".join(sys.path)
    done = subprocess.run(
        [sys.executable, str(script)], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr
