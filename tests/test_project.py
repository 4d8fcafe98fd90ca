"""What the project's files say about one another: versions, pins, targets, links."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import prelude

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def requirements() -> list[Requirement]:
    table = project()
    extras = table["optional-dependencies"]
    lines = [*table["dependencies"], *extras["bench"], *extras["dev"]]
    return [Requirement(line) for line in lines if not line.startswith("prelude-llm")]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_requirement_is_pinned_to_a_version_it_allows(requirement: Requirement) -> None:
    assert pins()[canonicalize_name(requirement.name)] in requirement.specifier


def test_pins_fit_the_cpu_and_the_cuda_build() -> None:
    assert [name for name, version in pins().items() if version.local] == []
    assert not any(name.startswith("nvidia") for name in pins())


def test_make_installs_the_pinned_pytorch() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (version,) = re.findall(r"^TORCH \?= torch==([\d.]+)", makefile, re.MULTILINE)
    assert Version(version) == pins()["torch"]
    assert f"TORCH=torch=={version} TORCH_INDEX=" in makefile
    assert f"TORCH=torch=={version} TORCH_INDEX=" in (ROOT / "README.md").read_text()


def test_the_version_is_said_once() -> None:
    assert project()["version"] == prelude.__version__


def test_hydra_is_held_below_its_next_minor_version() -> None:
    (hydra,) = [r for r in requirements() if r.name == "hydra-core"]
    assert Version("1.4.0") not in hydra.specifier


def test_workflow_tests_every_supported_python() -> None:
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    (line,) = re.findall(r"python: \[(.*)\]", workflow)
    tested = [Version(word) for word in re.findall(r'"(.+?)"', line)]
    supported = SpecifierSet(project()["requires-python"])
    assert tested == [
        v for v in map(Version, ("3.10", "3.11", "3.12", "3.13", "3.14")) if v in supported
    ]


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text() and "make test" in script.read_text()
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "test.yml").read_text()


def test_make_help_lists_the_targets() -> None:
    command = ["make", "--no-print-directory", "help"]  # the test may itself run below make
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    targets = {line.split()[0] for line in run.stdout.splitlines()}
    assert {"serve", "test", "test-slow", "bench", "lint", "format", "clean"} <= targets
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets == set(phony.split())


def make_install(*variables: str) -> str:
    """The commands of ``make install`` in a folder without ``.venv``, not run."""
    command = ["make", "-n", "-B", "install", "PYTHON=python3", *variables]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout


def test_the_cuda_build_is_only_installed_when_asked_for() -> None:
    lines = [
        line for line in make_install("TORCH=torch==2.13.0+cpu").splitlines() if "torch" in line
    ]
    assert any("--extra-index-url https://download.pytorch.org/whl/cpu" in line for line in lines)
    assert all('"torch==2.13.0+cpu"' in line for line in lines if "install" in line)
    plain = make_install("TORCH=torch==2.13.0", "TORCH_INDEX=")
    assert '"torch==2.13.0"' in plain and "--extra-index-url" not in plain


def test_an_unsupported_python_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "constraints.txt").touch()
    (tmp_path / "pyproject.toml").touch()
    command = ["make", "install", "PYTHON="]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode != 0
    assert "Prelude needs Python 3.11, 3.12 or 3.13" in run.stderr


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert project()["license"] == "Apache-2.0"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_folders_and_files_exist(page: Path) -> None:
    pattern = r"`((?:prelude|graphs|kernels|conf|server|tests|benchmarks|docs)/[\w./-]*)`"
    for name in re.findall(pattern, page.read_text()):
        assert (ROOT / name).exists(), f"{page.name}: {name}"
