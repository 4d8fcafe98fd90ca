"""What is kept between starts (compiled programs, kernels, profiles), as files to list, to carry to
another machine of the same kind, and to clear.

An archive is a plain tar whose first member is a manifest: which machine its files are good for,
and the size and digest of each. Nothing is written before all of it has been checked.
"""

import hashlib
import io
import os
import platform
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch

from prelude.kernels.build import cpu_flags

ARCHIVE_VERSION = 1
KINDS = {"kernels": ".so", "programs": ".pt2", "profiles": ".json"}

_MANIFEST = "manifest.json"
_NAME = re.compile(r"(kernels|programs|profiles)/[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SHOWN_FLAGS = 6


class Machine(msgspec.Struct, frozen=True):
    """What compiled code depends on."""

    system: str
    torch: str
    cpu_flags: str

    @classmethod
    def here(cls) -> "Machine":
        system = f"{platform.system()} {platform.machine()}"
        return cls(system, str(torch.__version__), cpu_flags())

    def differences(self, here: "Machine") -> list[str]:
        """In words, why code made for this machine would not do ``here``."""
        found = [
            f"{name} is {ours} there and {theirs} here"
            for name, ours, theirs in (
                ("the system", self.system, here.system),
                ("torch", self.torch, here.torch),
            )
            if ours != theirs
        ]
        flags, ours = set(self.cpu_flags.split()), set(here.cpu_flags.split())
        if flags != ours:
            found.append(
                f"CPU features differ{_some(' missing here: ', flags - ours)}"
                f"{_some(' only here: ', ours - flags)}"
            )
        return found


class Entry(msgspec.Struct, frozen=True):
    """One file: its path below the cache folder, its size and its SHA-256."""

    path: str
    num_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    machine: Machine
    files: list[Entry]
    version: int = ARCHIVE_VERSION


def artifacts(folder: Path) -> Iterator[Path]:
    """The files in a cache folder that are worth keeping, kind by kind."""
    for kind, suffix in KINDS.items():
        yield from sorted((folder / kind).glob(f"*{suffix}"))


def export_artifacts(folder: Path, archive: Path) -> Manifest:
    """Write all artifacts into one new archive. Raises ``ValueError`` if there are none."""
    contents = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in artifacts(folder)
    }
    if not contents:
        raise ValueError(f"{folder} holds nothing to export: start an engine first")
    entries = [Entry(name, len(data), _sha256(data)) for name, data in contents.items()]
    manifest = Manifest(Machine.here(), entries)
    unfinished = archive.with_name(f"{archive.name}.{os.getpid()}")
    try:
        with tarfile.open(unfinished, "w:") as tar:
            _add(tar, _MANIFEST, msgspec.json.encode(manifest))
            for name, data in contents.items():
                _add(tar, name, data)
        unfinished.replace(archive)
    finally:
        unfinished.unlink(missing_ok=True)
    return manifest


def import_artifacts(folder: Path, archive: Path) -> Manifest:
    """Put the files of an archive where an engine with this cache folder finds them. Raises
    ``ValueError`` for what is no archive of ours, is damaged, or does not fit this machine."""
    try:
        with tarfile.open(archive, "r:") as tar:
            manifest, contents = _read(tar)
    except (tarfile.TarError, msgspec.MsgspecError, EOFError) as error:
        raise ValueError(f"{archive}: not an archive of prelude cache export ({error})") from error
    except ValueError as error:
        raise ValueError(f"{archive}: {error}") from error
    if reasons := manifest.machine.differences(Machine.here()):
        raise ValueError(f"{archive} was made for another machine: {'; '.join(reasons)}")
    for name, data in contents.items():
        _write(folder / name, data)
    return manifest


def clear_artifacts(folder: Path) -> int:
    """Remove everything kept in a cache folder, intermediate files too. Returns bytes freed."""
    freed = 0
    for kind in KINDS:
        freed += sum(p.stat().st_size for p in (folder / kind).rglob("*") if p.is_file())
        shutil.rmtree(folder / kind, ignore_errors=True)
    return freed


def _read(tar: tarfile.TarFile) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and what it lists; every member is one of these, a plain file, and whole."""
    members = iter(tar)
    first = next(members, None)
    if first is None or first.name != _MANIFEST:
        raise ValueError(f"has no {_MANIFEST} at its beginning")
    manifest = msgspec.json.decode(_data(tar, first), type=Manifest)
    if manifest.version != ARCHIVE_VERSION:
        raise ValueError(f"archive version {manifest.version} is not supported")
    wanted = {entry.path: entry for entry in manifest.files}
    contents = {}
    for member in members:
        entry = wanted.pop(member.name, None)
        if entry is None or not _NAME.fullmatch(member.name) or not member.isreg():
            raise ValueError(f"member {member.name!r} has no place in a cache folder")
        data = contents[member.name] = _data(tar, member)
        if (len(data), _sha256(data)) != (entry.num_bytes, entry.sha256):
            raise ValueError(f"member {member.name!r} is damaged")
    if wanted:
        raise ValueError(f"{len(wanted)} files are missing, {min(wanted)!r} first")
    return manifest, contents


def _data(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _some(label: str, flags: set[str]) -> str:
    shown = " ".join(sorted(flags)[:_SHOWN_FLAGS])
    more = f" and {len(flags) - _SHOWN_FLAGS} more" if len(flags) > _SHOWN_FLAGS else ""
    return f",{label}{shown}{more}" if flags else ""
