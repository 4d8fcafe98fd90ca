"""Memory made ready early is zero, whole, and nobody else's once it is taken."""

import subprocess
import sys
from pathlib import Path

import pytest

from prelude.conf.load import load_config
from prelude.conf.schema import Config, Device
from prelude.engine import early
from prelude.engine.early import EarlyMemory, early_memory, model_spec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="madvise")


def config(device: Device = Device.cpu) -> Config:
    return load_config({"model": "tiny", "runner.device": device.value})


def test_what_is_taken_stays_as_it_is_written() -> None:
    for _ in range(10):
        memory = EarlyMemory(9 * 2**20)
        buffer = memory.take()
        buffer[:4] = b"mine"
        buffer[-4:] = b"mine"
        assert not memory._thread.is_alive()
        assert bytes(buffer[:4]) == bytes(buffer[-4:]) == b"mine"
        assert not any(buffer[4 : 2**20])


def test_there_is_room_for_the_weights() -> None:
    spec, folder = model_spec(config().model)
    assert folder is None
    memory = early_memory(config())
    assert memory is not None
    assert memory.num_bytes > spec.weight_bytes("float32")


def test_not_for_other_devices_nor_for_a_model_that_hardly_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert early_memory(config(Device.cuda)) is None
    monkeypatch.setattr(early, "_NVIDIA", Path("/"))
    assert early_memory(config(Device.auto)) is None
    monkeypatch.setattr(early, "host_memory_bytes", lambda: 2**20)
    assert early_memory(config()) is None


def test_it_does_not_need_torch() -> None:
    code = "import sys, prelude.engine.early; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
