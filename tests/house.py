"""The house: which module imports which, read from the code without running it."""

import ast
import collections
import pathlib

PACKAGE = "keras_weightnoise"
ROOT = pathlib.Path(__file__).parents[1]

# From the top down: a module imports from its own room and from rooms below. Rooms of one row do not know
# each other.
ROOMS = [
    ["__init__"],
    ["recipes"],
    ["analysis"],
    ["models"],
    ["layers", "callbacks"],
    ["adversaries", "constraints", "priors"],
    ["_weights"],
    ["noises"],
    ["schedules"],
    ["_random"],
    ["_perturbation"],
    ["_attributes", "_checks", "_not_public", "_tables", "_types", "_version"],
]


def modules():
    """The modules of the package, by their dotted names below it, with their syntax trees."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text())
    return found


def room_of(module):
    return module.partition(".")[0]


def imports(tree, names):
    """The modules of the package that a module imports, and the names it imports from each."""
    found = collections.defaultdict(set)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                if each.name.partition(".")[0] == PACKAGE:
                    found[each.name.partition(".")[2] or "__init__"].add(None)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            source = node.module.partition(".")[2]
            for each in node.names:
                inner = f"{source}.{each.name}".lstrip(".")
                if inner in names:
                    found[inner].add(None)
                else:
                    found[source or "__init__"].add(each.name)
    return found


def graph():
    """For each module, those that it imports."""
    trees = modules()
    return {name: set(imports(tree, trees)) for name, tree in trees.items()}


def drawing():
    """The rooms and their arrows, as `CONTRIBUTING.md` shows them."""
    arrows = collections.defaultdict(set)
    for module, imported in graph().items():
        arrows[room_of(module)] |= {room_of(each) for each in imported} - {room_of(module)}
    base = set(ROOMS[-1])
    lines = []
    for row in ROOMS[:-1]:
        for room in row:
            if room in arrows or room in map(room_of, graph()):
                order = [each for below in ROOMS for each in below if each in arrows[room] - base]
                lines.append(f"{room:14}-> {', '.join(order) or 'the modules below all'}".rstrip())
    below = sorted(base & set(map(room_of, graph())))
    return "\n".join([*lines, f"below all:    {', '.join(below)}"])


if __name__ == "__main__":
    print(drawing())
