"""The package as a newcomer meets it."""

import pathlib
import re
import subprocess
import sys

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_the_code_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, str(README), "exec"), {})


def test_another_backend_is_refused():
    # None is installed, so one is pretended.
    code = "import keras; keras.config.backend = lambda: 'jax'; import keras_weightnoise"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "Received: backend='jax'" in result.stderr
