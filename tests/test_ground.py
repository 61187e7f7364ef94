"""The ground rules of the repository: what it may depend on and which room may import which."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers.dynamic_module_utils import get_relative_imports

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("modeling_utgrec", "tokenization_items", "trainers", "hub_cards")

# Room to the rooms it may import. Imports run one way, so nothing at the bottom knows of what uses it.
MAY_IMPORT = {
    "modeling_utgrec": set(),
    "hub_cards": set(),
    "tokenization_items": {"modeling_utgrec", "hub_cards"},
    "trainers": {"modeling_utgrec", "hub_cards", "tokenization_items"},
    "examples": set(PACKAGES),
}
# Within trainers/: from the ground up; a file imports only what is on its own floor or below. One file is on another
# floor than its folder: rankers whose settings are chosen use the metrics.
FLOORS = (
    {"data"},
    {"training_data"},
    {"evaluation.metrics"},
    {"rankers"},
    {"evaluation"},
    {"hub"},
    {"runtime"},
    {""},  # the files of trainers/ itself: the Trainers and what they share
    {"methods"},
    {"serving"},
    {"commands"},
)
# What the networks may import, torch and what transformers needs: their files run on other people's machines.
TRAVELS_WITH = {"torch", "transformers", "huggingface_hub", "safetensors", "numpy"}
TRAVELS_LAZILY = {"peft", "diffusers"}  # of some networks: imported where they are used
BEHIND_THE_SWITCH = "generation_layers.py"  # the only file with an operator of torch that is private: `fast_cpu`
# A room that is imported by its command alone, which says what is missing: its extra is imported at the top.
ROOMS_OF_EXTRAS = {"trainers/serving": "serve"}
IMPORT_NAMES = {"faiss-cpu": "faiss", "pillow": "PIL", "pyyaml": "yaml"}  # where it is not the distribution's


class Import(NamedTuple):
    line: int
    module: str  # absolute: relative imports are resolved within the room
    level: int  # number of leading dots
    in_function: bool


def imports_of(path: Path, root: Path) -> list[Import]:
    """Every import statement of a file, wherever it stands."""
    package = path.relative_to(root).parent.parts
    found = []

    def visit(node: ast.AST, in_function: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(node.lineno, alias.name, 0, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*parents, *([node.module] if node.module else [])])
            found.append(Import(node.lineno, module, node.level, in_function))
        function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)), False)
    return found


def modules(room: str, root: Path) -> list[Path]:
    return sorted(path for path in (root / room).rglob("*.py") if "__pycache__" not in path.parts)


def room_violations(root: Path) -> list[str]:
    """Imports that run the wrong way."""
    rooms = {*MAY_IMPORT, "tests"}
    found = []
    for room, allowed in MAY_IMPORT.items():
        for path in modules(room, root):
            for entry in imports_of(path, root):
                target = entry.module.split(".")[0]
                climbs_out = entry.level and target != room
                if climbs_out or (target in rooms and target != room and target not in allowed):
                    found.append(
                        f"{path.relative_to(root)}:{entry.line}: {room} may not import {entry.module or '..'}"
                    )
    return found


def floor_violations(root: Path) -> list[str]:
    """Imports within trainers/ that run upwards. `trainers/__init__.py` names what is public, and is not looked at."""
    height = {floor: number for number, floors in enumerate(FLOORS) for floor in floors}

    def floor_of(names: list[str]) -> str:
        """The longest name that has a floor, "" for the files of trainers/ itself."""
        return next((floor for floor in (".".join(names[:2]), *names[:1]) if floor in height), "")

    found = []
    for path in modules("trainers", root):
        parts = path.relative_to(root / "trainers").parts
        if parts in (("__init__.py",), ("__main__.py",)):
            continue
        floor = floor_of([*parts[:-1], path.stem]) or (parts[0] if len(parts) > 1 else "")
        for entry in imports_of(path, root):
            room, *names = entry.module.split(".")
            if room != "trainers":
                continue
            target = floor_of(names)
            if floor not in height or height[target] > height[floor] or not (names or entry.level):
                found.append(
                    f"{path.relative_to(root)}:{entry.line}: {floor or 'trainers'} may not import {entry.module}"
                )
    return found


def reader_violations(root: Path) -> list[str]:
    """Readers of raw data that import another one: what two of them need has a file of its own."""
    readers = root / "trainers" / "data" / "readers"
    if not (readers / "__init__.py").is_file():
        return []
    imported = {entry.module for entry in imports_of(readers / "__init__.py", root)}
    names = {name for name in imported if name.startswith("trainers.data.readers.")} - {"trainers.data.readers.base"}
    return [
        f"{path.relative_to(root)}:{entry.line}: a reader may not import {entry.module}"
        for path in modules("trainers/data/readers", root)
        if path.name != "__init__.py"
        for entry in imports_of(path, root)
        if entry.module in names
    ]


def remote_code_violations(root: Path) -> list[str]:
    """What would break `modeling_utgrec` when its files travel with a checkpoint as remote code.

    transformers copies the flat neighbours that it finds by looking for lines `from .neighbour import name`.
    """
    room = root / "modeling_utgrec"
    found = []
    for path in modules("modeling_utgrec", root):
        name = path.relative_to(root)
        if path.parent != room:
            found.append(f"{name}: modeling_utgrec is flat, sub-packages do not travel")
            continue
        neighbours = set()
        for entry in imports_of(path, root):
            if entry.module.split(".")[0] != "modeling_utgrec":
                continue
            if entry.level != 1 or entry.module.count(".") != 1:
                found.append(f"{name}:{entry.line}: only `from .neighbour import name`, not {entry.module!r}")
                continue
            neighbours.add(entry.module.split(".")[1])
        found += [f"{name}: no module {each}.py" for each in sorted(neighbours) if not (room / f"{each}.py").is_file()]
        if extra := set(get_relative_imports(path)) ^ neighbours:
            found.append(f"{name}: a line of text reads like a relative import, or hides one: {sorted(extra)}")
        if re.search(r"\bTYPE_CHECKING\b", path.read_text(encoding="utf-8")):
            found.append(f"{name}: TYPE_CHECKING imports are copied and executed like any other")
    return found


def stranger_violations(root: Path) -> list[str]:
    """What the networks' files may not do on other people's machines: import more than transformers needs, use what is
    private of torch, or change the class of an object."""
    found = []
    for path in modules("modeling_utgrec", root):
        name = path.relative_to(root)
        for entry in imports_of(path, root):
            target = entry.module.split(".")[0]
            allowed = TRAVELS_WITH | (TRAVELS_LAZILY if entry.in_function else set())
            if target not in {"modeling_utgrec", *allowed, *sys.stdlib_module_names}:
                found.append(f"{name}:{entry.line}: {target} may be absent where a checkpoint is loaded")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute):
                continue
            private = node.attr.startswith("_") and not node.attr.endswith("__")
            if private and ast.unparse(node.value).split(".")[0] == "torch" and path.name != BEHIND_THE_SWITCH:
                found.append(f"{name}:{node.lineno}: {ast.unparse(node)} is private")
            if node.attr == "__class__" and isinstance(node.ctx, ast.Store):
                found.append(f"{name}:{node.lineno}: the class of an object is changed")
    return found


def data_violations(root: Path) -> list[str]:
    """Imports of torch in what reads data."""
    return [
        f"{path.relative_to(root)}:{entry.line}: data may not import {entry.module}"
        for path in modules("trainers/data", root)
        for entry in imports_of(path, root)
        if entry.module.split(".")[0] in ("torch", "transformers")
    ]


def requirement_names(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


def import_names(requirements: set[str]) -> set[str]:
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in requirements}


def third_party_violations(
    root: Path, required: set[str], optional: set[str], of_rooms: dict[str, set[str]]
) -> list[str]:
    """Imports of packages that pyproject.toml does not name; optional ones belong inside functions, but for those of
    a room's own extra."""
    known, lazy = import_names(required), import_names(optional)
    found = []
    for room in PACKAGES:
        for path in modules(room, root):
            for entry in imports_of(path, root):
                target = entry.module.split(".")[0]
                if target in MAY_IMPORT or target in sys.stdlib_module_names or target in known:
                    continue
                if target in lazy and entry.in_function and room != "modeling_utgrec":
                    continue
                if target in import_names(of_rooms.get(path.parent.relative_to(root).as_posix(), set())):
                    continue
                found.append(f"{path.relative_to(root)}:{entry.line}: {target} is not a dependency in pyproject.toml")
    return found


def test_imports_run_one_way():
    assert room_violations(ROOT) == []


def test_floors_of_trainers_are_climbed_one_way():
    assert {path.name for path in (ROOT / "trainers").iterdir() if (path / "__init__.py").is_file()} <= set.union(
        *FLOORS
    )
    assert floor_violations(ROOT) == []


def test_trainers_can_be_taken_in_at_a_glance():
    assert len([path for path in (ROOT / "trainers").iterdir() if path.name != "__pycache__"]) <= 20


def test_data_is_read_without_torch():
    assert data_violations(ROOT) == []


def test_networks_run_on_other_peoples_machines():
    assert stranger_violations(ROOT) == []
    assert "fast_cpu()" in (ROOT / "modeling_utgrec" / BEHIND_THE_SWITCH).read_text(encoding="utf-8")


def test_no_reader_imports_a_reader():
    assert reader_violations(ROOT) == []


def test_modeling_files_can_travel_as_remote_code():
    assert remote_code_violations(ROOT) == []


def test_third_party_imports_are_declared():
    extras = [line for name, lines in PROJECT["optional-dependencies"].items() if name != "dev" for line in lines]
    required, optional = requirement_names(PROJECT["dependencies"]), requirement_names(extras)
    of_rooms = {
        room: requirement_names(PROJECT["optional-dependencies"][extra]) for room, extra in ROOMS_OF_EXTRAS.items()
    }
    assert third_party_violations(ROOT, required, optional, of_rooms) == []


def planted_dependencies(root: Path) -> list[str]:
    of_rooms = {"trainers/serving": {"fastapi"}}
    return third_party_violations(root, required={"torch"}, optional={"deepspeed", "fastapi"}, of_rooms=of_rooms)


@pytest.mark.parametrize(
    ("file", "line", "check"),
    [
        ("tokenization_items/a.py", "import trainers", room_violations),
        ("tokenization_items/a.py", "def f():\n    from trainers.x import y", room_violations),
        ("hub_cards/a.py", "import modeling_utgrec.x as x", room_violations),
        ("trainers/a.py", "from examples import demo", room_violations),
        ("trainers/a.py", "from ..examples import demo", room_violations),
        ("trainers/a.py", "import tests.helpers", room_violations),
        ("trainers/data/a.py", "from trainers.rankers.b import c", floor_violations),
        ("trainers/data/readers/a.py", "def f():\n    import trainers.methods.x", floor_violations),
        ("trainers/rankers/a.py", "from trainers.hub_trainer import HubTrainer", floor_violations),
        ("trainers/rankers/a.py", "from trainers.evaluation.protocol import evaluate", floor_violations),
        ("trainers/evaluation/metrics.py", "from trainers.rankers import Ranker", floor_violations),
        ("trainers/a.py", "from trainers.methods.b import c", floor_violations),
        ("trainers/methods/a.py", "from trainers import evaluate", floor_violations),
        ("trainers/attic/a.py", "from trainers.data.b import c", floor_violations),
        ("trainers/data/readers/letter.py", "from trainers.data.readers.amazon import Amazon", reader_violations),
        ("modeling_utgrec/a.py", "from . import b", remote_code_violations),
        ("modeling_utgrec/a.py", "from modeling_utgrec.b import c", remote_code_violations),
        ("modeling_utgrec/a.py", "from .absent import c", remote_code_violations),
        ("modeling_utgrec/a.py", '"""Use\nfrom .b import c\n"""', remote_code_violations),
        ("modeling_utgrec/a.py", "from typing import TYPE_CHECKING", remote_code_violations),
        ("modeling_utgrec/sub/a.py", "", remote_code_violations),
        ("modeling_utgrec/a.py", "import scipy", stranger_violations),
        ("modeling_utgrec/a.py", "def f():\n    from faiss import Kmeans", stranger_violations),
        ("modeling_utgrec/a.py", "def f(x):\n    return torch.ops.mkldnn._linear_pointwise(x)", stranger_violations),
        ("modeling_utgrec/a.py", "def f(x):\n    x.__class__ = int", stranger_violations),
        ("trainers/data/a.py", "def f():\n    import torch.nn", data_violations),
        ("trainers/a.py", "import torchvision", planted_dependencies),
        ("trainers/a.py", "import deepspeed", planted_dependencies),
        ("modeling_utgrec/a.py", "def f():\n    import deepspeed", planted_dependencies),
        ("trainers/serving/a.py", "import deepspeed", planted_dependencies),
        ("trainers/a.py", "import fastapi", planted_dependencies),
    ],
)
def test_the_checks_find_a_planted_violation(tmp_path, file, line, check):
    for room in MAY_IMPORT:
        (tmp_path / room).mkdir()
    (tmp_path / "modeling_utgrec" / "b.py").write_text("from torch import nn\n")
    (tmp_path / "trainers" / "fine.py").write_text(
        "import os\nfrom . import a\nfrom modeling_utgrec.b import nn\nfrom hub_cards import a\n"
    )
    (tmp_path / "trainers" / "rankers").mkdir()
    (tmp_path / "trainers" / "rankers" / "fine.py").write_text("from trainers.evaluation.metrics import means\n")
    (tmp_path / "trainers" / "lazy.py").write_text("def f():\n    import deepspeed\n")
    (tmp_path / "trainers" / "serving").mkdir()
    (tmp_path / "trainers" / "serving" / "fine.py").write_text("import fastapi\n")
    readers = tmp_path / "trainers" / "data" / "readers"
    readers.mkdir(parents=True)
    (readers / "__init__.py").write_text("from trainers.data.readers.amazon import A\n")
    (readers / "amazon.py").write_text("from trainers.data.readers.base import B\n")
    (tmp_path / "modeling_utgrec" / "fine.py").write_text("def f(x):\n    return x.__class__\n")
    clean = (room_violations, floor_violations, reader_violations, remote_code_violations, stranger_violations)
    for violations in (*clean, data_violations, planted_dependencies):
        assert violations(tmp_path) == []
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(line + "\n")
    assert len(check(tmp_path)) == 1


def test_nothing_requires_torchvision():
    """A torchvision that does not match torch breaks `import transformers`: nothing may bring it, at any depth."""
    direct = [line for lines in PROJECT["optional-dependencies"].values() for line in lines] + PROJECT["dependencies"]
    direct += metadata.requires("utgrec") or []
    waiting, seen = [Requirement(line) for line in direct], set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # an extra that is not installed
            continue
        for line in lines:
            below = Requirement(line)
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                waiting.append(below)
    names = {name for name, _ in seen}
    assert {"torch", "transformers", "pillow"} <= names  # the walk did walk
    assert "torchvision" not in names


def test_constraints_pin_every_dependency_within_its_range():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[^=\s]+", line), line
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    assert "torchvision" not in pins
    declared = [*PROJECT["dependencies"], *(x for lines in PROJECT["optional-dependencies"].values() for x in lines)]
    for requirement in map(Requirement, declared):
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} does not allow the tested {version}"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed(package):
    assert (ROOT / package / "py.typed").is_file()
    assert ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8")))
