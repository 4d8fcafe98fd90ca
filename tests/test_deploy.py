"""Deployment files: they parse, agree with one another, and name only what Prelude has."""

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version
from starlette.routing import Route

from prelude.cli import COMMANDS
from prelude.conf.load import load_config
from prelude.conf.schema import Config
from prelude.server.keys import ADMIN_KEY_VARIABLE, API_KEY_VARIABLE
from tests.server_harness import serving

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
YAML = sorted({*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")})
TO_END_S = 15  # beside drain_s: connections close, the engine ends


def documents(path: Path) -> list[Any]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one is not None]


def kubernetes(kind: str) -> dict[str, Any]:
    found = [one for path in (DEPLOY / "kubernetes").rglob("*.yaml") for one in documents(path)]
    return next(one for one in found if one.get("kind") == kind)


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = documents(DEPLOY / "kubernetes/base/deployment.yaml")[0]["spec"]
    template: dict[str, Any] = spec["template"]
    return template


def served(args: list[str]) -> Config:
    """The configuration that ``prelude ARGS`` serves with: every key exists, every value fits."""
    assert args[0] == "serve"
    return load_config(args[1:])


@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_yaml_parses(path: Path) -> None:
    assert documents(path)


def test_all_containers_are_told_what_exists() -> None:
    (container,) = pod()["spec"]["containers"]
    compose = documents(DEPLOY / "compose.yaml")[0]["services"]["prelude"]
    command = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in compose["command"]]
    for args in (container["args"], command):
        config = served(args)
        assert config.server.host == config.server.admin.host == "0.0.0.0"
        assert config.log.format.value == "json"


# --- Kubernetes ---


async def test_probes_ask_for_what_there_is() -> None:
    (container,) = pod()["spec"]["containers"]
    config = served(container["args"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": config.server.port, "admin": config.server.admin.port}
    async with serving() as server:
        paths = {route.path for route in server.app.routes if isinstance(route, Route)}
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness")}
    probes["readiness"] = container["readinessProbe"]["httpGet"]
    assert {probe["path"] for probe in probes.values()} <= paths
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert probes["liveness"]["path"] == "/health/live"
    assert probes["readiness"]["path"] == probes["startup"]["path"] == "/health/ready"


def test_pods_have_the_time_to_drain() -> None:
    (container,) = pod()["spec"]["containers"]
    _, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    needed = int(seconds) + served(container["args"]).server.drain_s + TO_END_S
    assert pod()["spec"]["terminationGracePeriodSeconds"] >= needed


def test_pods_may_nothing() -> None:
    (container,) = pod()["spec"]["containers"]
    assert pod()["spec"]["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"/cache", "/tmp"}  # all that is written to


def test_keys_come_from_the_secret_that_the_page_says_how_to_make() -> None:
    (container,) = pod()["spec"]["containers"]
    env = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"]}
    assert set(env) == {API_KEY_VARIABLE, ADMIN_KEY_VARIABLE}
    text = (DEPLOY / "kubernetes/base/kustomization.yaml").read_text()
    for reference in env.values():
        assert f"secret generic {reference['name']} " in text
        assert f"--from-literal={reference['key']}=" in text
    credentials = kubernetes("ServiceMonitor")["spec"]["endpoints"][0]["authorization"]
    admin = env[ADMIN_KEY_VARIABLE]
    assert credentials["credentials"] == {"name": admin["name"], "key": admin["key"]}


def test_selectors_find_the_pods() -> None:
    labels = pod()["metadata"]["labels"]
    for path in (DEPLOY / "kubernetes/base").glob("*service.yaml"):
        (service,) = documents(path)
        assert service["spec"]["selector"].items() <= labels.items()
        names = {port["name"] for port in pod()["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    assert kubernetes("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    (admin,) = documents(DEPLOY / "kubernetes/base/admin-service.yaml")
    monitor = kubernetes("ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= admin["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in admin["spec"]["ports"]}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
@pytest.mark.parametrize("name", ["base", "cuda", "monitoring"])
def test_kustomize_builds_it(name: str) -> None:
    command = ["kubectl", "kustomize", str(DEPLOY / "kubernetes" / name)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    built = list(yaml.safe_load_all(run.stdout))
    if name == "cuda":
        (container,) = next(one for one in built if one["kind"] == "Deployment")["spec"][
            "template"
        ]["spec"]["containers"]
        assert container["image"] == "prelude:cuda"
        assert served(container["args"]).model.path == "/models/chat"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


# --- Compose ---


def test_compose_agrees_with_what_it_starts() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    service = compose["services"]["prelude"]
    config = served([re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in service["command"]])
    assert service["ports"] == [f"{config.server.port}:{config.server.port}"]
    assert service["expose"] == [str(config.server.admin.port)]
    assert int(service["stop_grace_period"].removesuffix("s")) >= config.server.drain_s + TO_END_S
    (scrape,) = documents(DEPLOY / "prometheus/prometheus.yml")[0]["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [f"prelude:{config.server.admin.port}"]}]
    secret = Path(scrape["authorization"]["credentials_file"]).name
    assert compose["secrets"][secret] == {"environment": ADMIN_KEY_VARIABLE}
    assert set(service["environment"]) == {API_KEY_VARIABLE, ADMIN_KEY_VARIABLE}


def test_every_variable_is_in_the_example() -> None:
    wanted = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    example = (DEPLOY / "example.env").read_text()
    assert wanted == set(re.findall(r"^#?(\w+)=", example, re.MULTILINE))


def test_mounted_folders_and_targets_exist() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_dir(), source
            elif not source.startswith("$"):
                assert source in compose["volumes"]
    targets = re.findall(r"^FROM .* AS (\S+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    for name in ("compose.yaml", "compose.cuda.yaml"):
        (file,) = documents(DEPLOY / name)
        assert file["services"]["prelude"]["build"]["target"] in targets
    assert (DEPLOY / compose["services"]["prelude"]["build"]["context"]).resolve() == ROOT


# --- the image ---


def dockerfile() -> list[str]:
    """Its instructions, continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_image_serves_as_nobody() -> None:
    lines = dockerfile()
    final = [n for n, line in enumerate(lines) if re.match(r"FROM .* AS (cpu|cuda)$", line)]
    assert len(final) == 2 and final[-1] < len(lines)
    assert lines.count("USER 10001") == 2
    assert lines.count('ENTRYPOINT ["prelude"]') == 2
    for line in lines:
        if line.startswith("CMD "):
            assert served(yaml.safe_load(line.removeprefix("CMD "))).server.host == "0.0.0.0"
        if line.startswith("HEALTHCHECK"):
            assert "health" in COMMANDS and line.endswith('CMD ["prelude", "health"]')
    exposed = {line.removeprefix("EXPOSE ") for line in lines if line.startswith("EXPOSE")}
    assert exposed == {str(Config().server.port)}


def test_the_image_has_the_pinned_versions() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    (pinned,) = re.findall(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert {Version(v).public for v in re.findall(r"^ARG TORCH=torch==(.*)$", text, re.M)} == {
        pinned
    }
    installs = [line for line in dockerfile() if "pip install" in line]
    assert installs and all("-c constraints.txt" in line for line in installs)


def test_requirements_are_the_projects() -> None:
    made = runpy.run_path(str(DEPLOY / "requirements.py"))["requirements"]
    found = made(ROOT / "pyproject.toml", ["otel", "cuda"])
    assert any(line.startswith("transformers") for line in found)
    assert any(line.startswith("opentelemetry-sdk") for line in found)
    assert any(line.startswith("flashinfer") for line in found)
    assert not any(line.startswith("torch") for line in found)


def test_what_is_copied_is_not_ignored() -> None:
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert all((ROOT / name).exists() for name in kept)
    for line in dockerfile():
        if line.startswith("COPY") and "--from" not in line and line != "COPY . .":
            assert set(line.split()[1:-1]) <= kept
    assert {"prelude", "conf", "graphs", "kernels", "server", "pyproject.toml"} <= kept


# --- systemd ---


def unit() -> dict[str, str]:
    text = (DEPLOY / "systemd/prelude.service").read_text()
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def test_the_unit_waits_for_the_server() -> None:
    found = unit()
    command = shlex.split(found["ExecStart"].replace("${MODEL}", "demo"))
    assert command[0].endswith("/bin/prelude")
    config = served(command[1:])
    assert found["Type"] == "notify" and int(found["WatchdogSec"]) >= 30
    assert int(found["TimeoutStopSec"]) >= config.server.drain_s + TO_END_S
    assert found["CacheDirectory"] == "prelude"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd/prelude.service").read_text()
    copy = tmp_path / "prelude.service"
    copy.write_text(text.replace("/srv/prelude/.venv/bin/prelude", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", str(copy)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "prelude.service" not in run.stderr, run.stderr
