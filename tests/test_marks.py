"""The fast subset, `-m "not slow"`: it has a test of everything that is public, and of each room."""

import ast
import doctest
import importlib
import pathlib

import pytest

pytestmark = pytest.mark.any_version

TESTS = pathlib.Path(__file__).parent
NAMESPACES = ["", ".constraints", ".noises", ".priors", ".schedules"]
# What every noise uses: types, and checks for noises of one's own.
PARTS = {"Generator", "Scale", "Schedule", "check_magnitude", "check_scale"}


def public():
    for namespace in NAMESPACES:
        module = importlib.import_module(f"keras_weightnoise{namespace}")
        defined = [
            n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
        ]
        for name in getattr(module, "__all__", defined):
            value = getattr(module, name)
            if callable(value) and not name.startswith("_") and name not in PARTS:
                yield pytest.param(name, value, id=f"{namespace}.{name}".lstrip("."))


def is_slow(node):
    """Whether a test, or a module, bears the mark."""
    if isinstance(node, ast.Module):
        marks = [
            statement.value
            for statement in node.body
            if isinstance(statement, ast.Assign)
            and ast.unparse(statement.targets[0]) == "pytestmark"
        ]
    else:
        # What is marked in a table's rows is slow in part.
        marks = [each for each in node.decorator_list if "parametrize" not in ast.unparse(each)]
    return any("mark.slow" in ast.unparse(mark) for mark in marks)


def fast_tests(path):
    """The test functions of a file, or of the files in a folder, that are not slow."""
    for file in sorted(path.rglob("test_*.py")) if path.is_dir() else [path]:
        module = ast.parse(file.read_text())
        if not is_slow(module):
            for node in module.body:
                is_test = isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
                if is_test and not is_slow(node):
                    yield node


NAMED = {
    part
    for test in fast_tests(TESTS)
    for node in ast.walk(test)
    if (part := getattr(node, "id", getattr(node, "attr", None)))
}


@pytest.mark.parametrize(("name", "value"), list(public()))
def test_what_is_public_has_a_fast_test(name, value):
    """An example in its docstring, which is never slow, or a test that names it. Of a base, a subclass's."""
    heirs = value.__subclasses__() if isinstance(value, type) else []
    for each in (value, *heirs):
        examples = doctest.DocTestParser().get_examples(each.__doc__ or "")
        if each.__name__ in NAMED or any(each.__name__ in example.source for example in examples):
            return
    pytest.fail(f"{name} has no fast test")


def test_each_room_has_fast_tests():
    rooms = {path.parent for path in TESTS.rglob("test_*.py")} - {TESTS / "integration"}
    assert len(rooms) > 5
    assert [room.name for room in rooms if not list(fast_tests(room))] == []
