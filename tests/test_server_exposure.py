"""Who can reach the server: said before it listens, and TLS where it is asked for."""

import asyncio
import resource
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from prelude.cli import main
from prelude.conf.schema import ServerConfig, TlsConfig
from prelude.server.exposure import check_exposure, check_tls, is_loopback
from prelude.server.listen import allow_files, open_socket
from tests.fakes import scripted_client
from tests.server_harness import listening, test_config
from tests.text_samples import byte_level


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("chat.example", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_what_is_this_machine(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
    config = ServerConfig(host=host)
    check_exposure(config, has_keys=True)
    config.auth.allow_anonymous = True
    check_exposure(config, has_keys=False)
    config.auth.allow_anonymous = False
    if expected:
        check_exposure(config, has_keys=False)
    else:
        with pytest.raises(ValueError, match=r"PRELUDE_API_KEY.*allow_anonymous=true"):
            check_exposure(config, has_keys=False)


def test_a_unix_socket_is_this_machine() -> None:
    config = ServerConfig(host="0.0.0.0", uds="/run/prelude.sock")
    check_exposure(config, has_keys=False)
    config.grpc.port = 0  # listens on the host
    with pytest.raises(ValueError, match=r"server\.host=0\.0\.0\.0"):
        check_exposure(config, has_keys=False)


def test_the_admin_port_is_never_open_to_all() -> None:
    config = ServerConfig()
    config.admin.host = "0.0.0.0"
    config.auth.allow_anonymous = True
    check_exposure(config, has_keys=False)
    config.admin.port = 9001
    with pytest.raises(ValueError, match=r"PRELUDE_ADMIN_KEY"):
        check_exposure(config, has_keys=False)
    check_exposure(config, has_keys=True)


def test_the_command_refuses_before_it_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRELUDE_API_KEY", raising=False)
    monkeypatch.delenv("PRELUDE_ADMIN_KEY", raising=False)
    assert main(["serve", "server=public"]) == 2
    assert "server.host=0.0.0.0: anybody could use this server" in capsys.readouterr().err
    assert main(["serve", "server.tls.cert=/no/cert", "server.tls.key=/no/key"]) == 2
    assert "server.tls.cert=/no/cert" in capsys.readouterr().err
    assert main(["serve", "server.auth.keys=/no/such/keys.yaml"]) == 1
    assert "/no/such/keys.yaml" in capsys.readouterr().err


def test_as_many_files_as_connections() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        low = min(before[0], 256)
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, before[1]))
        allow_files(low + 10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (low + 10, before[1])
        allow_files(low)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == low + 10
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> TlsConfig:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    out = ["-keyout", str(key), "-out", str(cert)]
    try:
        subprocess.run([*command.split(), *names, *out], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    return TlsConfig(str(cert), str(key))


def test_a_certificate_and_its_key(certificate: TlsConfig, tmp_path: Path) -> None:
    check_tls(certificate)
    check_tls(TlsConfig())
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")
    for bad in (TlsConfig(str(broken), certificate.key), TlsConfig(certificate.cert, str(broken))):
        with pytest.raises(ValueError, match=r"server\.tls\.cert=.*broken|server\.tls\.key=.*"):
            check_tls(bad)


async def test_https(certificate: TlsConfig) -> None:
    config = test_config()
    config.server.tls = certificate
    client, _ = scripted_client()
    async with listening(client, byte_level(), config) as server:
        trust = ssl.create_default_context(cafile=certificate.cert)
        url = server.url.replace("http:", "https:")
        async with httpx.AsyncClient(base_url=url, verify=trust, trust_env=False) as http:
            assert (await http.get("/health/live")).status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await server.http.get("/health/live")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with pytest.warns(DeprecationWarning):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection("127.0.0.1", port, ssl=old)
    await client.close()


def test_the_admin_socket_says_its_own_name() -> None:
    with open_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=r"choose another server\.admin\.port"):
            open_socket("127.0.0.1", port, key="server.admin.port")
