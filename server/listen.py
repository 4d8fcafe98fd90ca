"""The listening socket: it is there before the engine is, and before most of our own modules."""

import errno
import fcntl
import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BACKLOG = 2048
# What a client that stops reading can make us buffer; the kernel's own choice is megabytes.
_SEND_BUFFER_BYTES = 64 * 1024


def open_socket(
    host: str, port: int, key: str = "server.port", *, send_timeout_s: float = 30.0
) -> socket.socket:
    """A listening socket: clients wait in its backlog from the first moment. One that takes nothing
    for ``send_timeout_s`` is dropped by the system, also when all is written and it only has to
    close: no other time limit sees that."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    # What is accepted inherits it: an answer's last bytes do not wait for its first to arrive.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        timeout_ms = int(send_timeout_s * 1e3)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise OSError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another {key}"
        ) from error
    opened.listen(BACKLOG)
    return opened


@contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """A listening Unix socket, for its owner and its group, whose file goes with it. The file of a
    server that is dead is replaced. Raises ``OSError`` where one lives, or anything else lies."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        with _alone_in(path.parent):
            _remove_stale(path)
            _bind(opened, path)
            # Nobody can connect before it listens, so nobody comes before the mode is set.
            path.chmod(0o660)
            made = path.stat()
            opened.listen(BACKLOG)
        try:
            yield opened
        finally:
            with _alone_in(path.parent):
                if path.exists() and os.path.samestat(path.lstat(), made):
                    path.unlink()


def name_of(listening: socket.socket, scheme: str) -> str:
    """Where its clients find it."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{host}:{port}"


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """While two servers start, neither takes the other's new socket for a dead one's."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OSError(f"server.uds: {folder}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(f"server.uds={path}: there is something else than a socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.0)
        if asking.connect_ex(str(path)) != errno.ECONNREFUSED:
            raise OSError(f"server.uds={path}: a server listens there; choose another path")
    path.unlink()


def _bind(opened: socket.socket, path: Path) -> None:
    try:
        opened.bind(str(path))
    except OSError as error:
        raise OSError(f"server.uds={path}: cannot listen: {error.strerror or error}") from error


def allow_files(count: int) -> None:
    """Raise this process's limit of open files to ``count``, or as far as it may be raised: every
    connection is one, and shells start with as few as 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
