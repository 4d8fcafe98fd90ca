"""The wheel of prebuilt kernels, unpacked as an installer does."""

import subprocess
import sys
import zipfile
from pathlib import Path

from benchmarks.flashinfer_wheel import write_wheel


def test_a_wheel_holds_what_it_lists_where_flashinfer_looks(tmp_path: Path) -> None:
    library = tmp_path / "compiled.so"
    library.write_bytes(b"code")
    wheel = write_wheel(tmp_path, "0.6.9", {"batch_prefill": library, "page": library})
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        record = archive.read("flashinfer_jit_cache-0.6.9.dist-info/RECORD").decode()
        assert sorted(line.split(",")[0] for line in record.splitlines()) == sorted(
            archive.namelist()
        )
    code = "import flashinfer_jit_cache as c; print(c.__version__, c.get_jit_cache_dir())"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=site, capture_output=True, text=True, check=True
    )
    version, folder = said.stdout.split(maxsplit=1)
    assert version == "0.6.9"
    assert Path(folder.strip(), "page", "page.so").read_bytes() == b"code"
