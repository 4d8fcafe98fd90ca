"""What the chat page computes, run by Node: most of its modules need no browser."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "server" / "page"
TESTS = Path(__file__).parent / "page"
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="needs node (Debian: apt-get install nodejs)")
def test_the_pages_modules(tmp_path: Path) -> None:
    """In a folder that says what they are; nothing in the repository needs to know of Node."""
    assert NODE is not None
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "page").mkdir()
    for script in SCRIPTS.glob("*.js"):
        shutil.copy(script, tmp_path / "page")
    tests = [str(shutil.copy(test, tmp_path)) for test in sorted(TESTS.glob("*.test.mjs"))]
    command = [NODE, "--test", "--test-reporter=spec", *tests]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    (passed,) = re.findall(r"pass (\d+)", done.stdout)
    assert int(passed) > len(tests) > 0
