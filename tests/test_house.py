"""The plan of the house holds: imports point one way, private is private, nothing grows too large."""

import ast
import builtins
import doctest
import re

import house
import pytest

pytestmark = pytest.mark.any_version

TREES = house.modules()
GRAPH = house.graph()
LEVEL = {room: level for level, row in enumerate(house.ROOMS) for room in row}

# What is larger than it should be. Shorten these lists; do not lengthen them.
LONG_MODULES: dict[str, int] = {}
LONG_FUNCTIONS: dict[str, int] = {}

# Private modules that another room uses, for what users have no need of.
CROSSINGS = {
    ("analysis", "models._batch_function"),
    ("analysis", "models._borrowed_weights"),
    ("layers", "noises._scales"),
    ("models", "layers._estimators"),
    ("models", "layers._noisy_reads"),
    ("models", "layers._weight_noise_wrapper"),
}


def test_each_room_is_on_the_plan():
    assert {house.room_of(name) for name in GRAPH} <= set(LEVEL)


@pytest.mark.parametrize("module", GRAPH)
def test_imports_point_down(module):
    room = house.room_of(module)
    for imported in GRAPH[module]:
        other = house.room_of(imported)
        base = other in house.ROOMS[-1]
        assert base or other == room or LEVEL[other] > LEVEL[room], f"{module} imports {imported}"


def test_no_circles():
    left = {module: set(imported) - {module} for module, imported in GRAPH.items()}
    # A room's `__init__` stands for the room; those inside import each other by their own names.
    while left:
        free = {module for module, imported in left.items() if not imported & set(left)}
        assert free, f"these import each other: {sorted(left)}"
        left = {module: imported for module, imported in left.items() if module not in free}


@pytest.mark.parametrize("module", TREES)
def test_imports_are_at_the_top(module):
    inside = [
        node.lineno
        for function in ast.walk(TREES[module])
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        if (isinstance(node, ast.ImportFrom) and (node.module or "").startswith(house.PACKAGE))
        or (
            isinstance(node, ast.Import)
            and any(each.name.startswith(house.PACKAGE) for each in node.names)
        )
    ]
    assert not inside


@pytest.mark.parametrize("module", TREES)
def test_private_modules_stay_in_their_room(module):
    for imported, names in house.imports(TREES[module], TREES).items():
        room, _, inner = imported.partition(".")
        if inner.startswith("_") and room != house.room_of(module):
            assert (house.room_of(module), imported) in CROSSINGS
        # Private names stay in their module.
        assert not [
            name for name in names if name and re.match("_[^_]", name) and name != "_not_public"
        ]


def length(node, lines):
    """The lines of code of a function or module: no docstrings, comments or blank lines."""
    skipped = set()
    for each in ast.walk(node):
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
            skipped |= set(range(each.lineno, each.end_lineno + 1))
    first, last = getattr(node, "lineno", 1), getattr(node, "end_lineno", len(lines))
    return sum(
        bool(lines[i - 1].split("#")[0].strip()) for i in range(first, last + 1) if i not in skipped
    )


def sizes():
    modules, functions = {}, {}
    for path in (house.ROOT / house.PACKAGE).rglob("*.py"):
        text = path.read_text()
        lines, name = text.splitlines(), str(path.relative_to(house.ROOT / house.PACKAGE))
        modules[name] = len(lines)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                functions[f"{name}: {node.name}"] = length(node, lines)
    return modules, functions


@pytest.mark.parametrize(
    ("found", "allowed", "most"),
    [(sizes()[0], LONG_MODULES, 300), (sizes()[1], LONG_FUNCTIONS, 40)],
    ids=["modules", "functions"],
)
def test_size(found, allowed, most):
    grown = {name: n for name, n in found.items() if n > max(most, allowed.get(name, 0))}
    assert not grown
    assert not {name for name in allowed if found.get(name, 0) <= most}, "no longer too long"


def unknown_names(docstring):
    """The names that an example reads before it has imported or made them: users copy examples."""
    known, missing = set(dir(builtins)), set()
    for example in doctest.DocTestParser().get_examples(docstring):
        nodes = list(ast.walk(ast.parse(example.source)))
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                known |= {(each.asname or each.name).partition(".")[0] for each in node.names}
            elif isinstance(node, ast.FunctionDef):
                known.add(node.name)
            elif isinstance(node, ast.arg):
                known.add(node.arg)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                known.add(node.id)
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        missing |= names - known
    return missing


@pytest.mark.parametrize("module", TREES)
def test_examples_import_what_they_use(module):
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            assert not unknown_names(ast.get_docstring(node) or ""), getattr(node, "name", module)


NOT_PUBLIC = re.compile(r"keras\.src|tensorflow\.python|tf\.compat|\.op\.type|\.handle\b")

# The private names that are the package's own.
OWN = {
    name
    for tree in TREES.values()
    for node in ast.walk(tree)
    for name in (
        getattr(node, "name", None),  # Of functions and classes.
        ast.unparse(node).removeprefix("self.") if isinstance(node, ast.Attribute) else None,
    )
    if isinstance(node, ast.FunctionDef | ast.ClassDef)
    or (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
}


@pytest.mark.parametrize("module", [name for name in TREES if name != "_not_public"])
def test_what_is_not_public_is_on_its_page(module):
    found = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Attribute)
        and (
            NOT_PUBLIC.search(ast.unparse(node))
            or (re.match("_[a-z]", node.attr) and node.attr not in OWN)
        )
    ]
    assert not found


def test_the_drawing_in_contributing_is_what_is_there():
    text = (house.ROOT / "CONTRIBUTING.md").read_text()
    assert house.drawing() in text, f"python tests/house.py prints:\n{house.drawing()}"
