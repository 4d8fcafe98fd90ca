"""The listening socket: it is there before the engine is, and before most of our own modules."""

import resource
import socket

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


def allow_files(count: int) -> None:
    """Raise this process's limit of open files to ``count``, or as far as it may be raised: every
    connection is one, and shells start with as few as 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
