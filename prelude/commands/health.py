"""``prelude health``: ask a server how it is; for probes in containers that have no curl."""

import http.client
import json
import socket
import ssl
from urllib.parse import urlsplit

from prelude.commands.parser import CommandParser

EXAMPLES = ("prelude health", "prelude health --live https://127.0.0.1:8443 --insecure")


def run(argv: list[str]) -> int:
    """0 if the answer is 200, else 1; raises ``OSError`` if there is none."""
    parser = CommandParser(
        "health",
        "Ask a server whether it is ready. The exit code is 0 if it is, else 1.",
        examples=EXAMPLES,
    )
    parser.add_argument(
        "url", nargs="?", default="http://127.0.0.1:8000", help="default: %(default)s"
    )
    parser.add_argument(
        "--live", action="store_true", help="ask whether it is alive: a start may go on for long"
    )
    parser.add_argument("--timeout", type=float, default=5.0, metavar="S", help="%(default)s s")
    parser.add_argument(
        "--insecure", action="store_true", help="take any certificate, as that of 127.0.0.1"
    )
    args = parser.parse_args(argv)
    path = "/health/live" if args.live else "/health/ready"
    status, body = ask(args.url, path, timeout_s=args.timeout, insecure=args.insecure)
    print(_summary(body))
    return 0 if status == http.client.OK else 1


def ask(url: str, path: str, *, timeout_s: float, insecure: bool) -> tuple[int, str]:
    """Status and body of ``path`` on the server at ``url``. Raises ``ValueError`` for what is no
    URL, ``OSError`` where nobody answers in time."""
    if url.startswith("unix:"):
        return _asked(UnixConnection(url.removeprefix("unix:"), timeout_s), url, path)
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if "=" in parts.netloc or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url}: must be as http://127.0.0.1:8000 or unix:/run/prelude.sock")
    connection = _connection(parts.scheme, parts.hostname, parts.port, timeout_s, insecure)
    return _asked(connection, url, path)


class UnixConnection(http.client.HTTPConnection):
    """To the server whose socket is at ``path``."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _asked(connection: http.client.HTTPConnection, url: str, path: str) -> tuple[int, str]:
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{url}: {error or type(error).__name__}") from error
    finally:
        connection.close()


def _connection(
    scheme: str, host: str, port: int | None, timeout_s: float, insecure: bool
) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    context = ssl._create_unverified_context() if insecure else ssl.create_default_context()
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


def _summary(body: str) -> str:
    """The status and what explains it: the whole answer is for programs."""
    try:
        found = json.loads(body)
    except ValueError:
        return body
    names = ("status", "phase", "fraction", "error", "open", "model")
    shown = {name: found[name] for name in names if isinstance(found, dict) and name in found}
    return json.dumps(shown) if shown else body
