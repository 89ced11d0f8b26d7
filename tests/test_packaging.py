"""What setup.cfg says against what lies in the folders: a package or data file that is not listed is missing from the wheel."""

import configparser
import fnmatch
from pathlib import Path

import tinygen

ROOT = Path(__file__).parent.parent
CONFIG = configparser.ConfigParser()
CONFIG.read(ROOT / "setup.cfg")


def lines(section: str, key: str) -> list[str]:
    return [line.strip() for line in CONFIG[section][key].splitlines() if line.strip()]


def packages_on_disk() -> dict[str, Path]:
    found = {}
    for top, name in (("tinygen", "tinygen"), ("kernels", "tinygen.kernels")):
        for init in (ROOT / top).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / top).parts
            found[".".join([name, *parts])] = init.parent
    return found


def test_every_package_is_listed():
    assert sorted(lines("options", "packages")) == sorted(packages_on_disk())


def test_every_data_file_is_listed():
    patterns = {key: [p.strip() for p in value.split(",")] for key, value in CONFIG["options.package_data"].items()}
    missing = [
        str(file.relative_to(ROOT))
        for name, folder in packages_on_disk().items()
        for file in folder.iterdir()
        if file.is_file() and file.suffix != ".py"
        if not any(fnmatch.fnmatch(file.name, p) for p in patterns.get(name, []))
    ]
    assert missing == []


def test_one_version():
    assert tinygen.__version__ == CONFIG["metadata"]["version"]


def test_no_deep_learning_package_is_a_dependency():
    required = " ".join(lines("options", "install_requires")).lower()
    assert not any(name in required for name in ("torch", "jax", "tensorflow", "autograd", "mxnet"))
    assert "torch" in CONFIG["options.extras_require"]["bench"]


def test_the_top_level_holds_what_was_chosen():
    chosen = {"tinygen", "kernels", "tests", "benchmarks", "setup.cfg", "README.md"}
    forced = {".ci", ".git", ".gitignore", "LICENSE", "pyproject.toml"}
    made = {".venv", "runs", "build", "dist", ".pytest_cache", ".ruff_cache", ".hypothesis", "__pycache__", "tinygen.egg-info"}
    assert chosen <= {path.name for path in ROOT.iterdir()} <= chosen | forced | made
