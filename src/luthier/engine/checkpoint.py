"""Checkpoints that survive a crash at any instant, and the lock of a run folder.

The order of a save, each step finished before the next begins:

1. every file is written into ``.tmp-<step>-<pid>``, in the folder where it will stay, and fsynced;
2. ``manifest.json`` (step, recipe, data cursor, size and sha256 of each file) is written last, and fsynced;
3. the temporary folder is fsynced, 4. renamed to ``step-00000010``, 5. its parent is fsynced.

``save`` never removes an earlier checkpoint; ``rotate`` does, afterwards: renamed to ``.del-...`` first, so that a
half-deleted one is never taken for a checkpoint. Saving a step again publishes ``step-00000010.2`` beside the first,
because no portable call replaces one folder by another in a single step; the higher number is the newer one.
Everything is safetensors and JSON.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from luthier.types import Finding, Refused

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
CHUNK_BYTES = 16 * 2**20
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Groups = dict[str, dict[str, Tensor]]
"""Named tensors by file: ``{"parameters": {...}, "optimizer": {...}}``."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that verified: its step, its folder, and the JSON part of what was saved."""

    step: int
    folder: Path
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of ``<name>.safetensors``, on the CPU; none where there is no such file."""
        path = self.folder / f"{name}.safetensors"
        return safetensors.torch.load_file(path) if path.is_file() else {}


def save(folder: Path, step: int, *, tensors: Groups, state: dict[str, Any], recipe_hash: str) -> Path:
    """Write one checkpoint durably and return its folder; when it returns, a power cut no longer loses it.

    ``state`` must come back unchanged from JSON (string keys, lists, not tuples); its ``cursor``, where it has one,
    is also put into the manifest. Tensors may share storage or be strided: each is read back whole, on its own.
    Raises ``Refused`` (``checkpoint.disk``) where the disk is full; earlier checkpoints are then intact.
    """
    state_json = json.dumps(state).encode()
    temporary = folder / f".tmp-{step}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        os.mkdir(temporary)
        files = {STATE: _write(temporary / STATE, state_json)}
        for name, group in tensors.items():
            files[f"{name}.safetensors"] = _write(temporary / f"{name}.safetensors", _serialise(group))
        _write(temporary / MANIFEST, _manifest_json(step, recipe_hash, state.get("cursor", {}), files))
        _sync_folder(temporary)
        published = _next_name(folder, step)
        os.rename(temporary, published)
        _sync_folder(folder)
        _sync_folder(folder.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise Refused(_disk_finding(folder, step, tensors, error)) from error
        raise
    return published


def latest(folder: Path, recipe_hash: str | None, step: int | None = None) -> tuple[Checkpoint | None, list[Finding]]:
    """The newest checkpoint that verifies, and a warning (``checkpoint.damaged``) for each newer one skipped.

    Reads every byte of what it returns. ``recipe_hash`` None takes a checkpoint of any recipe: only resuming needs
    the same one. With ``step`` (that of the best, say) no other is looked at, and a missing one is told too. Removes
    what dead writers left behind.
    """
    _remove_leftovers(folder)
    findings: list[Finding] = []
    asked_for = [] if step is None else [(step, folder / f"step-{step:08d}")]
    for found, path in [pair for pair in _candidates(folder) if step in (None, pair[0])] or asked_for:
        problems = _problems(path, found, recipe_hash)
        if not problems:
            return Checkpoint(found, path, json.loads((path / STATE).read_bytes())), findings
        what = "this checkpoint can't be used: " + "; ".join(problems)
        findings.append(Finding("checkpoint.damaged", str(path), what, "restore it or delete it", severity="warning"))
    return None, findings


def rotate(folder: Path, keep: int, best_step: int | None, recipe_hash: str | None = None) -> None:
    """Keep the newest ``keep`` sound checkpoints and the best one; delete the others, damaged ones too.

    The newest counts only when each of its bytes verifies, those behind it when their sizes do. So the last valid one
    always stays, and where none is valid nothing is deleted. With ``recipe_hash``, checkpoints of another recipe
    are neither counted nor deleted: a stale run with higher step numbers can't push out the present one.
    """
    kept: set[int] = set()
    doomed: list[tuple[int, Path]] = []
    for step, path in _candidates(folder):
        if recipe_hash is not None and _recipe_of(path) not in (None, recipe_hash):
            continue
        wanted = step not in kept and (len(kept) < max(keep, 1) or step == best_step)
        if wanted and not _problems(path, step, None, contents=not kept):
            kept.add(step)
        else:
            doomed.append((step, path))
    if not kept:
        return
    for step, path in doomed:
        if step != best_step or step in kept:
            _delete(path)


def space_needed(tensors: Groups) -> int:
    """Bytes that a checkpoint of these tensors takes on disk, rounded up by a little for names and shapes."""
    named = [pair for group in tensors.values() for pair in group.items()]
    return sum(tensor.numel() * tensor.element_size() + 4 * len(name) + 256 for name, tensor in named)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run folder, so that no second process trains into it. Raises ``Refused`` (``run.locked``).

    The system drops the lock when the holder dies, however it dies (and the workers that it forked with it).
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            what = f"another process (pid {holder}) is training into this folder"
            raise Refused(Finding("run.locked", str(folder), what, "wait for it, stop it, or name another")) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, payload: bytes) -> dict[str, Any]:
    """Write and fsync a new file; its size and the sha256 of the bytes handed to the system, for the manifest."""
    digest, rest = hashlib.sha256(), memoryview(payload)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        while rest:
            written = os.write(descriptor, rest[:CHUNK_BYTES])
            digest.update(rest[:written])
            rest = rest[written:]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return {"size": len(payload), "sha256": digest.hexdigest()}


def _serialise(group: dict[str, Tensor]) -> bytes:
    """Safetensors bytes; a tensor is copied only where it is strided or overlaps one that came before it."""
    taken: dict[tuple[str, int], list[tuple[int, int]]] = {}
    separate = {}
    for name, tensor in group.items():
        dense = tensor.detach().contiguous()
        start, stop = dense.data_ptr(), dense.data_ptr() + dense.numel() * dense.element_size()
        areas = taken.setdefault((str(dense.device), dense.untyped_storage().data_ptr()), [])
        overlaps = any(start < end and begin < stop for begin, end in areas)
        separate[name] = dense.clone() if overlaps else dense
        areas.append((start, stop))
    return safetensors.torch.save(separate)


def _manifest_json(step: int, recipe_hash: str, cursor: dict[str, Any], files: dict[str, Any]) -> bytes:
    body = {"format": FORMAT, "step": step, "recipe_hash": recipe_hash, "cursor": cursor, "files": files}
    return json.dumps({**body, "sha256": _digest(body)}, indent=1).encode()


def _digest(body: dict[str, Any]) -> str:
    """The manifest's own sha256, over its other keys, so that a flipped byte in a step or a cursor is seen too."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _next_name(folder: Path, step: int) -> Path:
    newest = next((path for found, path in _candidates(folder) if found == step), None)
    copy = f".{int(newest.suffix[1:] or 1) + 1}" if newest else ""
    return folder / f"step-{step:08d}{copy}"


def _candidates(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of all that is named as a checkpoint, newest first; of one step, the highest copy first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if named := re.fullmatch(r"step-(\d{8,})(?:\.(\d+))?", path.name):
            found.append((int(named[1]), int(named[2] or 1), path))
    return [(step, path) for step, _, path in sorted(found, reverse=True)]


def _problems(path: Path, step: int, recipe_hash: str | None, *, contents: bool = True) -> list[str]:
    """What keeps a checkpoint from being loaded, each with its file; empty where it verifies."""
    try:
        manifest = _read_manifest(path)
    except FileNotFoundError:
        return [f"{MANIFEST}: missing"]
    except (OSError, ValueError) as error:
        return [f"{MANIFEST}: unreadable ({error})"]
    if manifest["step"] != step:
        return [f"{MANIFEST}: says step {manifest['step']}"]
    if recipe_hash not in (None, manifest["recipe_hash"]):
        return [f"{MANIFEST}: other recipe ({manifest['recipe_hash']}, not {recipe_hash})"]
    problems = (_file_problem(path / name, entry, contents) for name, entry in manifest["files"].items())
    return [problem for problem in problems if problem]


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, once its format and its own sha256 have been checked. Raises ValueError, OSError."""
    manifest = json.loads((path / MANIFEST).read_bytes())
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"not of format {FORMAT}, which this version reads")
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    if manifest.get("sha256") != _digest(body):
        raise ValueError("its sha256 differs")
    return manifest


def _recipe_of(path: Path) -> str | None:
    """The recipe of a checkpoint, None where the manifest can't be read."""
    try:
        return _read_manifest(path)["recipe_hash"]
    except (OSError, ValueError):
        return None


def _file_problem(path: Path, entry: dict[str, Any], contents: bool) -> str | None:
    try:
        if not path.is_file():
            return f"{path.name}: missing"
        size = path.stat().st_size
        if size != entry["size"]:
            return f"{path.name}: size {size}, expected {entry['size']}"
        if contents:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                    return f"{path.name}: sha256 differs"
    except OSError as error:
        return f"{path.name}: unreadable ({error.strerror})"
    return None


def _delete(path: Path) -> None:
    """Take a checkpoint out of sight in one step, then remove it; a leftover is removed by the next ``latest``."""
    condemned = path.with_name(f".del-{path.name}-{os.getpid()}")
    shutil.rmtree(condemned, ignore_errors=True)
    os.rename(path, condemned)
    shutil.rmtree(condemned, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove ``.del-*``, and ``.tmp-*`` whose writer is dead; a writer in this process is not writing now."""
    for path in folder.iterdir() if folder.is_dir() else ():
        writer = re.fullmatch(r"\.tmp-\d+-(\d{1,9})", path.name)
        if path.name.startswith(".del-") or (writer and not _is_other_process(int(writer[1]))):
            shutil.rmtree(path, ignore_errors=True)


def _is_other_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return pid != os.getpid()


def _disk_finding(folder: Path, step: int, tensors: Groups, error: OSError) -> Finding:
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    what = f"the checkpoint of step {step} needs {space_needed(tensors)} bytes, {free} are free ({error.strerror})"
    return Finding("checkpoint.disk", str(folder), what, "make room and run again: the earlier checkpoints are intact")
