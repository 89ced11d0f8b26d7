"""What an import costs, and the house's arrows: every module uses only what stands below it."""

import ast
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import tinygen

ROOT = Path(tinygen.__file__).parent
KERNELS = Path(tinygen.kernels.__path__[0])
HEAVY = ("cupy", "matplotlib", "numba", "rich", "safetensors", "scipy", "torch", "typer")

# From the ground up. A module may use the floors below its own, and the modules of its own floor.
FLOORS = (
    ("blas",),
    ("kernels",),
    ("backend",),
    ("anomaly", "guard", "replay"),
    ("graph",),
    ("tensor",),
    ("op",),
    ("ops",),
    ("finite_differences", "_gradcheck_function", "_gradcheck_behaviour", "gradcheck"),
    ("data",),
    ("nn", "distributions", "groups", "optim"),
    ("models", "evaluation"),
    ("checks",),
    ("training", "gallery"),
    ("cli",),
    ("__main__",),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def modules():
    """(dotted name, file) of every module of the package, kernels included."""
    for root, prefix in ((ROOT, "tinygen"), (KERNELS, "tinygen.kernels")):
        for path in sorted(root.rglob("*.py")):
            if root == ROOT and path.is_relative_to(KERNELS):
                continue
            parts = [prefix, *path.relative_to(root).with_suffix("").parts]
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def part_of(module):
    """`tinygen.ops.shape` -> `ops`; the package's own __init__ -> ''."""
    return module.split(".")[1] if "." in module else ""


def imports_of(module, path):
    """The tinygen modules that a file imports anywhere in it, except for type checkers."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", None) == "TYPE_CHECKING"
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "tinygen")
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: None if path.name == "__init__.py" else -1]
            start = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            if source.partition(".")[0] == "tinygen":
                for alias in node.names:
                    yield f"{source}.{alias.name}" if f"{source}.{alias.name}" in MODULES else source


def in_a_fresh_interpreter(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=False)


def test_importing_tinygen_loads_nothing_heavy():
    found = in_a_fresh_interpreter(
        f"import sys, tinygen; print([n for n in {HEAVY} if n in sys.modules], 'tinygen.nn' in sys.modules)"
    )
    assert found.stdout.strip() == "[] False", found.stderr


@pytest.mark.parametrize("part", ["nn", "optim", "distributions", "models", "data", "kernels", "training"])
def test_parts_load_when_used(part):
    found = in_a_fresh_interpreter(f"import sys, tinygen; tinygen.{part}; print('tinygen.{part}' in sys.modules)")
    assert found.stdout.strip() == "True", found.stderr


def test_computing_loads_nothing_heavy():
    found = in_a_fresh_interpreter(
        "import sys, numpy as np, tinygen as tg\n"
        "x = tg.Tensor(np.ones((4, 4)), requires_grad=True)\n"
        "tg.cross_entropy(x @ x, np.zeros(4, int)).backward()\n"
        f"print([n for n in {HEAVY} if n in sys.modules])"
    )
    assert found.stdout.strip() == "[]", found.stderr


def test_every_module_can_be_the_first_to_be_imported():
    """No circular imports: one process per module would take a minute, so each is imported into an emptied module table."""
    names = [name for name in MODULES if name != "tinygen.__main__" and not name.endswith(".cuda")]
    found = in_a_fresh_interpreter(
        "import importlib, sys, traceback, numpy\n"
        f"for name in {names}:\n"
        "    for loaded in [m for m in sys.modules if m.partition('.')[0] == 'tinygen']:\n"
        "        del sys.modules[loaded]\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except Exception:\n"
        "        print(name, traceback.format_exc())\n"
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == ""


def test_every_part_has_its_floor():
    parts = {part_of(name) for name in MODULES} - {""}
    assert parts <= set(FLOOR), f"without a floor: {sorted(parts - set(FLOOR))}"


@pytest.mark.parametrize("name", MODULES, ids=lambda name: name.removeprefix("tinygen."))
def test_arrows_point_down(name):
    own = part_of(name)
    for used in imports_of(name, MODULES[name]):
        other = part_of(used)
        if own == "kernels":
            assert other == "kernels", f"kernels stand alone, but {name} imports {used}"
        elif own and other:
            assert FLOOR[other] < FLOOR[own] or other == own or FLOOR[other] == FLOOR[own], f"{name} imports {used} from above"
        elif own:  # the package itself gives Tensor and the functions: for what stands above them
            assert FLOOR[own] > FLOOR["ops"], f"{name} imports the whole package from below"


def test_parts_of_one_floor_do_not_import_each_other_in_a_circle():
    uses = {}
    for name, path in MODULES.items():
        uses.setdefault(part_of(name), set()).update(part_of(used) for used in imports_of(name, path))
    for names in FLOORS:
        order = list(names)
        while order:
            free = [n for n in order if not (uses.get(n, set()) & set(order)) - {n}]
            assert free, f"a circle among {order}"
            order = [n for n in order if n not in free]


def test_public_names_exist_and_are_documented():
    for name in tinygen.__all__:
        assert getattr(tinygen, name).__doc__, name
    assert len(set(tinygen.__all__)) == len(tinygen.__all__)


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tinygen.nonsense  # noqa: B018


def test_every_folder_with_code_is_a_package_that_setup_installs():
    found = {m.name for m in pkgutil.walk_packages(tinygen.__path__, "tinygen.") if m.ispkg and "kernels" not in m.name}
    setup = (ROOT.parent / "setup.cfg").read_text() if (ROOT.parent / "setup.cfg").exists() else None
    if setup is None:
        pytest.skip("not a checkout")
    assert all(f"    {name}\n" in setup for name in found), found


WATCH_NUMPY = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            print(os.environ.get("OPENBLAS_THREAD_TIMEOUT"))
sys.meta_path.insert(0, Watch())
{before}
import tinygen
print(os.environ.get("OPENBLAS_THREAD_TIMEOUT"))
"""


@pytest.mark.parametrize(
    ("before", "chosen", "during", "after"),
    [("", None, "20", "None"), ("", "24", "24", "24"), ("import numpy", None, "None", "None")],
    ids=["first", "chosen by the user", "too late"],
)
def test_numpy_is_loaded_with_threads_of_blas_that_sleep(before, chosen, during, after):
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"}
    environment |= {"OPENBLAS_THREAD_TIMEOUT": chosen} if chosen else {}
    command = [sys.executable, "-c", WATCH_NUMPY.format(before=before)]
    done = subprocess.run(command, cwd=ROOT.parent, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [during, after]
