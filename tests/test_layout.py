"""The shape of the repository: its links, which module may import which, and what a wheel holds."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("conf", "graphs", "kernels", "server")
MAX_LINES = 400

# A module may import from its own floor and from the floors below it.
FLOORS = {
    "prelude.types": 0,
    "prelude.conf": 0,
    "prelude.logs": 0,
    "prelude.openmp": 0,
    "prelude.kernels": 1,
    "prelude.text": 1,
    "prelude.cache": 2,
    "prelude.graphs": 2,
    "prelude.models": 2,
    "prelude.batcher": 3,
    "prelude.disagg": 4,
    "prelude.parallel": 4,
    "prelude.runner": 4,
    "prelude.client": 5,
    "prelude.engine": 5,
    "prelude.batch": 6,
    "prelude.bench": 6,
    "prelude.cli": 6,
    "prelude.__main__": 6,
    "prelude.commands": 6,
    "prelude.llm": 6,
    "prelude.server": 6,
    "prelude.simulate": 6,
    "prelude.sweep": 6,
}

# Neither torch nor transformers may be loaded by importing these.
LIGHT = [
    "prelude",
    "prelude.batcher",
    "prelude.bench.serve",
    "prelude.cli",
    "prelude.client.client",
    "prelude.commands.bench",
    "prelude.commands.config",
    "prelude.commands.generate",
    "prelude.commands.serve",
    "prelude.commands.simulate",
    "prelude.commands.sweep",
    "prelude.conf.load",
    "prelude.models.paths",
    "prelude.server.app",
    "prelude.server.main",
    "prelude.simulate.run",
    "prelude.sweep.run",
    "prelude.text",
    "prelude.types.wire",
]


def floor(module: str) -> int | None:
    matches = [name for name in FLOORS if f"{module}.".startswith(f"{name}.")]
    return FLOORS[max(matches, key=len)] if matches else None


def modules() -> Iterator[tuple[str, Path]]:
    for folder in ("prelude", *LINKED):
        prefix = "prelude" if folder == "prelude" else f"prelude.{folder}"
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "prelude" and parts[0] in LINKED:
                continue  # reached through its real folder
            yield ".".join((prefix, *parts)).removesuffix(".__init__"), path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def git(*args: str) -> str:
    return subprocess.run(
        ["git", *args], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("name", LINKED)
def test_folder_is_linked_into_the_package(name: str) -> None:
    link = ROOT / "prelude" / name
    assert link.is_symlink(), f"prelude/{name} must be a link; clone with core.symlinks=true"
    assert link.resolve() == ROOT / name
    assert not link.readlink().is_absolute()


def test_kernels_cannot_hide_hugging_faces() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_conf_is_a_package_because_hydra_needs_one() -> None:
    assert (ROOT / "conf" / "__init__.py").exists()


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: str(value)[-60:])
def test_imports_point_down(module: str, path: Path) -> None:
    here = floor(module)
    if here is None:
        assert module == "prelude", f"{module} has no floor"
        return
    for name in imports(path):
        there = floor(name)
        assert there is None or there <= here, f"{module} (floor {here}) imports {name} ({there})"


def test_a_file_can_be_read_in_one_sitting() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for _, path in modules()
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert not long, "split these by reason to change"


def test_children_find_this_package_wherever_they_start() -> None:
    """Without -P a folder called prelude in the working directory, such as a checkout, hides it."""
    found = re.compile(r'sys\.executable, "-[cm]"')
    assert not [module for module, path in modules() if found.search(path.read_text())]


@pytest.mark.parametrize("module", LIGHT)
def test_import_is_light(module: str) -> None:
    heavy = ("torch", "transformers")
    code = f"import sys, {module}; print(*[name for name in {heavy} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of a wheel built from a copy of the tracked tree, so that none are left here."""
    source = tmp_path_factory.mktemp("source")
    for name in git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, target, follow_symlinks=False)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--disable-pip-version-check", "-w", str(out), str(source)],
        check=True,
        capture_output=True,
        timeout=240,
    )
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        return set(wheel.namelist())


def test_wheel_has_every_module_and_data_file(wheel_names: set[str]) -> None:
    suffixes = (".py", ".yaml", ".cpp", ".html", ".css", ".js", ".jinja", ".json", ".safetensors")
    wanted = set()
    for name in git("ls-files", "prelude", *LINKED).splitlines():
        if name.endswith(suffixes) and (ROOT / name).exists():
            wanted.add(name if name.startswith("prelude/") else f"prelude/{name}")
    assert wanted <= wheel_names, sorted(wanted - wheel_names)


def test_wheel_installs_nothing_but_prelude(wheel_names: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"prelude"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)
    assert "prelude/py.typed" in wheel_names
