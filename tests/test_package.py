"""The package as a newcomer meets it."""

import importlib
import inspect
import pathlib
import pkgutil
import re
import subprocess
import sys

import keras
import pytest

import keras_weightnoise

README = pathlib.Path(__file__).parent.parent / "README.md"
CONTRIBUTING = README.with_name("CONTRIBUTING.md")


@pytest.mark.as_written
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


def public_modules():
    named = [getattr(keras_weightnoise, name) for name in keras_weightnoise.__all__]
    return [keras_weightnoise, *filter(inspect.ismodule, named)]


def public():
    """What users may use, by its name in code: `noises.Gaussian`."""
    return {
        f"{module.__name__}.{name}".removeprefix("keras_weightnoise."): getattr(module, name)
        for module in public_modules()
        for name in module.__all__
        if not name.startswith("__")
    }


def test_what_is_public_is_documented():
    """Each name is in the README, in CONTRIBUTING, or in the docstrings of another one."""
    texts = {
        name: "\n".join(inspect.getdoc(part) or "" for part in (each, *vars(each).values()))
        for name, each in public().items()
    }
    guides = README.read_text() + CONTRIBUTING.read_text()
    for name in texts:
        last = name.rpartition(".")[2]
        others = [guides, *(each for other, each in texts.items() if other != name)]
        assert any(re.search(rf"\b{last}\b", each) for each in others), name


def test_what_is_documented_is_public():
    """What has an example of its own, or is saved under its name."""
    known = {id(each) for each in public().values()}
    for module in pkgutil.walk_packages(keras_weightnoise.__path__, "keras_weightnoise."):
        if "._" in module.name:
            continue
        for name, each in vars(importlib.import_module(module.name)).items():
            if getattr(each, "__module__", None) == module.name and not name.startswith("_"):
                own = inspect.isclass(each) and keras.saving.get_registered_name(each) != name
                if own or "Example:" in (each.__doc__ or ""):
                    assert id(each) in known, f"{module.name}.{name}"


def test_no_two_classes_are_saved_under_one_name():
    for module in pkgutil.walk_packages(keras_weightnoise.__path__, "keras_weightnoise."):
        for cls in vars(importlib.import_module(module.name)).values():
            if isinstance(cls, type) and cls.__module__ == module.name:
                name = keras.saving.get_registered_name(cls)
                if name != cls.__name__:  # What is not registered has no other.
                    assert keras.saving.get_registered_object(name) is cls, name
