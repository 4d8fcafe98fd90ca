"""``prelude cache``: what it exports it imports, and nothing else gets in."""

import io
import tarfile
from pathlib import Path

import msgspec
import pytest

from prelude.cli import main
from prelude.graphs import artifacts
from prelude.graphs.artifacts import (
    ARCHIVE_VERSION,
    Entry,
    Machine,
    Manifest,
    export_artifacts,
    import_artifacts,
)

Capture = pytest.CaptureFixture[str]
FILES = {
    "kernels/linear-1.so": b"code",
    "programs/layer-2.pt2": b"package" * 100,
    "profiles/profile-3.json": b"{}",
}


def fill(folder: Path) -> Path:
    for name, data in {**FILES, "programs/layer-2.log": b"?", "programs/inductor/x": b"?"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def prelude_cache(*words: str, folder: Path) -> int:
    return main(["cache", *words, f"graphs.cache_dir={folder}"])


def test_an_archive_carries_everything_to_an_empty_folder(tmp_path: Path, capsys: Capture) -> None:
    source, target, archive = fill(tmp_path / "a"), tmp_path / "b", tmp_path / "cache.tar"
    assert prelude_cache("export", str(archive), folder=source) == 0
    assert "3 files" in capsys.readouterr().out
    assert prelude_cache("import", str(archive), folder=target) == 0
    assert contents(target) == FILES
    assert sorted(tmp_path.iterdir()) == [source, target, archive]


def test_list_and_clear(tmp_path: Path, capsys: Capture) -> None:
    fill(tmp_path)
    (tmp_path / "notes.txt").write_text("not ours")
    assert prelude_cache("list", folder=tmp_path) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in FILES)
    assert prelude_cache("clear", folder=tmp_path) == 0
    assert contents(tmp_path) == {"notes.txt": b"not ours"}
    assert prelude_cache("list", folder=tmp_path) == 0


def test_an_empty_cache_is_not_exported(tmp_path: Path, capsys: Capture) -> None:
    assert prelude_cache("export", str(tmp_path / "x.tar"), folder=tmp_path) == 2
    assert "nothing to export" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["export"], ["import", "graphs.capture=eager"]])
def test_a_missing_file_is_wrong_usage(words: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["cache", *words])
    assert caught.value.code == 2
    assert "FILE is missing" in capsys.readouterr().err


def test_usage(capsys: Capture) -> None:
    assert main(["cache"]) == 2
    assert main(["cache", "eat"]) == 2
    assert "cache eat: unknown action" in capsys.readouterr().err
    assert main(["cache", "--help"]) == 0
    assert "export" in capsys.readouterr().out


def test_a_file_that_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    assert prelude_cache("import", str(tmp_path / "none.tar"), folder=tmp_path) == 1
    assert "none.tar" in capsys.readouterr().err


OTHERS = {
    "torch": (Machine("Linux x86_64", "1.0", "avx2"), "torch is 1.0 there and 9.9 here"),
    "system": (Machine("Linux riscv", "9.9", "avx2"), "the system is Linux riscv there"),
    "cpu": (Machine("Linux x86_64", "9.9", "avx2 avx512f"), "missing here: avx512f"),
    "more": (Machine("Linux x86_64", "9.9", ""), "only here: avx2"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_machine_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    machine, reason = OTHERS[case]
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: machine))
    export_artifacts(fill(tmp_path / "a"), tmp_path / "x.tar")
    here = Machine("Linux x86_64", "9.9", "avx2")
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: here))
    with pytest.raises(ValueError, match=f"made for another machine: .*{reason}"):
        import_artifacts(tmp_path / "b", tmp_path / "x.tar")
    assert not (tmp_path / "b").exists()


def archive(path: Path, entries: list[Entry], members: dict[str, bytes | str], **kind: int) -> Path:
    """A made-up archive; text is the target of a link."""
    manifest = msgspec.json.encode(Manifest(Machine.here(), entries, **kind))
    with tarfile.open(path, "w:") as tar:
        for name, data in {"manifest.json": manifest, **members}.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type, member.linkname, data = tarfile.SYMTYPE, data, b""
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def entry(path: str, data: bytes = b"x") -> Entry:
    return Entry(path, len(data), artifacts._sha256(data))


@pytest.mark.parametrize(
    "name",
    [
        "../evil.so",
        "kernels/../../evil.so",
        "/etc/evil.so",
        "kernels/sub/evil.so",
        "elsewhere/evil.so",
        "kernels/.evil.so",
        "kernels/",
        "kernels/a\\..\\b",
    ],
)
def test_no_path_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    file = archive(tmp_path / "x.tar", [entry(name)], {name: b"x"})
    with pytest.raises(ValueError, match="has no place in a cache folder"):
        import_artifacts(tmp_path / "cache", file)
    assert contents(tmp_path) == {"x.tar": file.read_bytes()}


@pytest.mark.parametrize(
    ("entries", "members", "problem"),
    [
        ([entry("kernels/a.so")], {"kernels/a.so": "/etc/passwd"}, "has no place"),
        ([], {"kernels/a.so": b"x"}, "has no place"),
        ([entry("kernels/a.so")], {"kernels/a.so": b"y"}, "is damaged"),
        ([entry("kernels/a.so"), entry("kernels/b.so")], {"kernels/a.so": b"x"}, "are missing"),
    ],
)
def test_what_the_manifest_does_not_promise_is_refused(
    tmp_path: Path, entries: list[Entry], members: dict[str, bytes | str], problem: str
) -> None:
    file = archive(tmp_path / "x.tar", entries, members)
    with pytest.raises(ValueError, match=problem):
        import_artifacts(tmp_path / "cache", file)
    assert not (tmp_path / "cache").exists()


def test_other_versions_and_other_files_are_refused(tmp_path: Path) -> None:
    file = archive(tmp_path / "x.tar", [], {}, version=ARCHIVE_VERSION + 1)
    with pytest.raises(ValueError, match="version 2 is not supported"):
        import_artifacts(tmp_path, file)
    file.write_bytes(b"no tar at all" * 100)
    with pytest.raises(ValueError, match="not an archive of prelude cache export"):
        import_artifacts(tmp_path, file)
    with tarfile.open(file, "w:") as tar:
        tar.addfile(tarfile.TarInfo("something"))
    with pytest.raises(ValueError, match="no manifest"):
        import_artifacts(tmp_path, file)


def test_a_real_kernel_is_found_after_it_has_been_carried(tmp_path: Path) -> None:
    from prelude.kernels.build import compile_library

    source = tmp_path / "one.cpp"
    source.write_text('extern "C" int one() { return 1; }\n')
    made = compile_library(source, tmp_path / "a" / "kernels")
    export_artifacts(tmp_path / "a", tmp_path / "x.tar")
    import_artifacts(tmp_path / "b", tmp_path / "x.tar")
    found = compile_library(source, tmp_path / "b" / "kernels")
    assert found.read_bytes() == made.read_bytes()
    assert found.stat().st_mtime != made.stat().st_mtime
