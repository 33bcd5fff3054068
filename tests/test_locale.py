"""Commands read and write UTF-8 in any locale."""

import os
import shutil
import subprocess
import sys

import pytest

CODE = """
import sys
from pathlib import Path
from cwm import cli
cli.app = lambda: print("\\u2192 " + Path(sys.argv[1]).read_text(), "\\U0001f916")
cli.main()
"""


@pytest.mark.skipif(shutil.which("localedef") is None, reason="needs localedef")
@pytest.mark.parametrize("encoding", [None, "ascii"])
def test_commands_use_utf8_in_a_locale_of_another_encoding(tmp_path, encoding):
    """PYTHONIOENCODING is respected; characters outside its encoding are escaped."""
    name = "en_US.ISO-8859-1"
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", tmp_path / name]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the locale definitions of the C library")
    file = tmp_path / "café.txt"
    file.write_text("café", encoding="utf-8")
    env = os.environ | {"LOCPATH": str(tmp_path), "LC_ALL": name}
    env = {k: v for k, v in env.items() if k not in ("PYTHONUTF8", "PYTHONIOENCODING")}
    env |= {"PYTHONIOENCODING": encoding} if encoding else {}
    done = subprocess.run([sys.executable, "-c", CODE, file], capture_output=True, env=env)
    assert done.returncode == 0, done.stderr
    expected = "→ café 🤖\n"
    said = expected.encode(encoding, "backslashreplace") if encoding else expected.encode()
    assert done.stdout == said
