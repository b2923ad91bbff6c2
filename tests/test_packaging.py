"""What is installed on a worker is all that is in the checkout."""

import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGES = ("beam_jobs", "proto", "trainer")


def files_of_the_packages():
    paths = [path for name in _PACKAGES for path in (_ROOT / name).rglob("*") if path.is_file()]
    return {path.relative_to(_ROOT).as_posix() for path in paths if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def source_package(tmp_path_factory):
    """The source package that Beam makes of --setup_file=./setup.py, by the command that Beam runs."""
    folder = tmp_path_factory.mktemp("package")
    for name in _PACKAGES:
        shutil.copytree(_ROOT / name, folder / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(_ROOT / name, folder / "src")
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(folder)]
    subprocess.run(command, cwd=folder / "src", check=True, capture_output=True, timeout=300)
    (package,) = folder.glob("*.tar.gz")
    return package


def test_source_package_has_every_file(source_package):
    with tarfile.open(source_package) as package:
        names = {name.partition("/")[2] for name in package.getnames()}
    assert files_of_the_packages() - names == set()


def test_wheel_of_the_source_package_has_every_file(source_package, tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*command, str(source_package)], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    # proto/ is imported, and installed, as hpa_proto.
    wanted = {re.sub("^proto/", "hpa_proto/", name) for name in files_of_the_packages()}
    assert wanted - names == set()
