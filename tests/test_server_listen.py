"""What the system does for us with connections that were accepted."""

import socket
import sys

import pytest

from prelude.server.listen import open_socket


@pytest.mark.skipif(sys.platform != "linux", reason="an option of Linux")
def test_who_takes_nothing_is_dropped_by_the_system_even_after_closing() -> None:
    """Nothing of ours would see it: the answer is written, and the connection only closes."""
    with open_socket("127.0.0.1", 0, send_timeout_s=0.2) as listening, socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        peer.connect(listening.getsockname())
        accepted, _ = listening.accept()
        with accepted:
            option = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert option == 200, "what is accepted has it from the socket that listens"
            accepted.settimeout(60)
            with pytest.raises(OSError) as caught:
                while True:
                    accepted.send(b"x" * 65536)
            assert isinstance(caught.value, TimeoutError | ConnectionError)
