"""What a wheel of a clean copy holds: every module, and the files that are not modules."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typed import REPOSITORY


def test_git_ignores_no_source() -> None:
    """A name in .gitignore must not swallow a room: what is not committed is not in a clone."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no clone")
    folders = ["src", "tests", "benchmarks", "docs", ":!docs/_build"]
    listed = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--", *folders]
    found = subprocess.run(listed, cwd=REPOSITORY, text=True, capture_output=True, check=True).stdout.split()
    assert [name for name in found if Path(name).suffix in {".py", ".md", ".yaml", ".jinja", ".css", ".jsonl"}] == []


def test_the_wheel_is_whole(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="building needs the setuptools of pyproject.toml")
    clean = tmp_path / "clean"
    clean.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, clean)
    shutil.copytree(REPOSITORY / "src", clean / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    build = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    words = [sys.executable, "-c", build, str(tmp_path)]
    ran = subprocess.run(words, cwd=clean, text=True, capture_output=True)
    assert ran.returncode == 0, ran.stderr

    with zipfile.ZipFile(tmp_path / ran.stdout.split()[-1]) as wheel:
        shipped = set(wheel.namelist())
    source = {path.relative_to(clean / "src").as_posix() for path in (clean / "src").rglob("*") if path.is_file()}
    source = {name for name in source if ".egg-info/" not in name}
    assert source - shipped == set()
    assert {name for name in shipped if ".dist-info/" not in name} - source == set()
    assert [name for name in shipped if name.endswith("licenses/LICENSE")]
    for name in (
        "recipes/data/sentiment/train.jsonl",
        "data/text/templates/chatml.jinja",
        "reports/report.css",
        "py.typed",
    ):
        assert f"luthier/{name}" in shipped
