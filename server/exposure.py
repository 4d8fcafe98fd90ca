"""Who can reach the server, said before it listens: by name of the setting, not by warning."""

import ssl
from ipaddress import ip_address

from prelude.conf.schema import ServerConfig, TlsConfig
from prelude.server.keys import ADMIN_KEY_VARIABLE, API_KEY_VARIABLE


def is_loopback(host: str) -> bool:
    """Whether this can only be this machine. Names other than localhost could be anything's."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_local(config: ServerConfig) -> bool:
    """Whether only this machine reaches the server: a Unix socket is a file of it, but gRPC beside
    that listens on the host all the same."""
    has_host = config.uds is None or config.grpc.port is not None
    return not has_host or is_loopback(config.host)


def check_exposure(config: ServerConfig, has_keys: bool) -> None:
    """Raise ``ValueError`` if anybody who can reach this machine could use it. A warning would
    scroll by; whoever wants that can say so in a word."""
    if has_keys:
        return
    if not (is_local(config) or config.auth.allow_anonymous):
        raise ValueError(
            f"server.host={config.host}: anybody could use this server. Set the variable "
            f"{API_KEY_VARIABLE} or server.auth.keys (see `prelude keys`), or, behind a "
            "proxy that authenticates, say server.auth.allow_anonymous=true"
        )
    if config.admin.port is not None and not is_loopback(config.admin.host):
        raise ValueError(
            f"server.admin.host={config.admin.host}: the admin port listens beyond this machine "
            f"only where a key is asked for; set the variable {ADMIN_KEY_VARIABLE} or "
            "server.auth.keys"
        )


def check_tls(config: TlsConfig) -> None:
    """Raise ``ValueError`` if certificate and key cannot be used."""
    if config.cert is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.cert, config.key)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"server.tls.cert={config.cert}, server.tls.key={config.key}: {error}"
        ) from error
