"""What must not stand in a file that the project keeps."""

from __future__ import annotations

import re
import subprocess

import pytest
from source import ROOT

# Spelled in pieces, so that this file holds none of them; `me` is nobody's home.
HOMES = re.compile(r"(?<![\w.~:/-])/" + r"(?:root|home|Users|work|mnt|workspace)/" + r"(?!me\b)[\w.-]+")
BINARY = (".png", ".jpg", ".gz", ".parquet", ".safetensors", ".npy", ".npz", ".ico", ".pdf")
LARGEST = 2**20
SHIPPED = "src/luthier/starter/lm/"  # the project's own model, made by starter/make.py
MOST_SHIPPED = 10 * 2**20


def tracked() -> list[str]:
    """Files that are, or would be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_path_of_a_machine() -> None:
    found = []
    for name in tracked():
        if name.endswith(BINARY):
            continue
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            found += [f"{name}:{number}: {match[0]}" for match in HOMES.finditer(line)]
    assert found == []


def test_no_large_file_and_no_weights() -> None:
    names = [name for name in tracked() if not name.startswith(SHIPPED)]
    assert [name for name in names if (ROOT / name).stat().st_size > LARGEST] == []
    assert [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".safetensors", ".ckpt"))] == []


def test_the_shipped_model_is_small() -> None:
    assert sum((ROOT / name).stat().st_size for name in tracked() if name.startswith(SHIPPED)) <= MOST_SHIPPED
