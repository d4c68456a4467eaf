"""The package as a newcomer meets it."""

import importlib
import pathlib
import pkgutil
import re
import subprocess
import sys

import keras
import pytest

import keras_weightnoise

README = pathlib.Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
def test_the_code_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, str(README), "exec"), {})


@pytest.mark.slow
def test_another_backend_is_refused():
    # None is installed, so one is pretended.
    code = "import keras; keras.config.backend = lambda: 'jax'; import keras_weightnoise"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "Received: backend='jax'" in result.stderr


def test_no_two_classes_are_saved_under_one_name():
    for module in pkgutil.walk_packages(keras_weightnoise.__path__, "keras_weightnoise."):
        for cls in vars(importlib.import_module(module.name)).values():
            if isinstance(cls, type) and cls.__module__ == module.name:
                name = keras.saving.get_registered_name(cls)
                if name != cls.__name__:  # What is not registered has no other.
                    assert keras.saving.get_registered_object(name) is cls, name
