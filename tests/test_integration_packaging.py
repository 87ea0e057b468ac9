"""The wheel holds what the program needs, and works from wherever it is installed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import framesieve.processing.reducer
import framesieve.tango_db
import pytest

ROOT = Path(__file__).parents[1]

REDUCE = """
import numpy as np
import framesieve.processing.reducer as reducer
from framesieve.processing.bins import make_bins
from framesieve.processing.opencl import choose_device
from framesieve.processing.parameters import Parameters
from framesieve.tango_db import sample_path

y, x = np.indices((40, 50))
core = reducer.Reducer(make_bins(np.hypot(y - 20, x - 25), 10), np.dtype("u2"), choose_device("auto"), batch_size=1)
core.inputs[0][0][...] = 10
core.inputs[0][0][5, 7] = 500
print(core.reduce(0, 1, Parameters())[0].index.tolist())
print(sample_path("demo").is_file())
print(reducer.__file__)
"""


def run(*command: object, **options) -> str:
    process = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=240, **options)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # from a copy: setuptools leaves a folder `build` behind, and would put into the wheel what it finds in an old one
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is no checkout: what belongs to the project cannot be told from what does not")
    tracked = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    isolated = []  # with what is installed where that will do: faster, and without a network
    if importlib.util.find_spec("setuptools") and int(version("setuptools").partition(".")[0]) >= 77:
        isolated = ["--no-isolation"]
    run(sys.executable, "-m", "build", "--wheel", *isolated, "--outdir", folder, folder / "source")
    (path,) = folder.glob("*.whl")
    return path


def test_content_of_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = next(name for name in names if name.endswith("/entry_points.txt"))
        scripts = archive.read(info).decode()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"framesieve"}
    assert "framesieve = framesieve.cli.main:main" in scripts
    assert "FrameSieve = framesieve.devices.server:main" in scripts
    kernels = {f"framesieve/processing/kernels/{path.name}" for path in (ROOT / "processing/kernels").glob("*.cl")}
    samples = {f"framesieve/tango_db/{path.name}" for path in (ROOT / "tango_db").glob("*.yaml")}
    assert len(kernels) >= 5 and len(samples) >= 2
    assert kernels | samples <= names
    assert not [name for name in names if "/tests/" in name or name.endswith((".h5", ".poni"))]
    # every module of the checkout that belongs to a package
    for package in ("acquisition", "cli", "devices", "formats", "processing", "simulators", "sources", "tango_db"):
        tracked = run("git", "ls-files", f"{package}/*.py", cwd=ROOT).split()
        assert {f"framesieve/{name}" for name in tracked if (ROOT / name).is_file()} <= names, package


def test_installed_wheel(wheel, tmp_path):
    target = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel)
    # -S and site-packages by hand: the files with which an editable install finds the checkout are not looked at
    site = [path for path in sys.path if path.endswith("-packages")]
    code = f"import sys; sys.path[:0] = {[str(target), *site]!r}\n{REDUCE}"
    told = run(sys.executable, "-S", "-c", code, cwd=tmp_path).splitlines()
    assert told[:2] == [str([5 * 50 + 7]), "True"]
    assert told[2].startswith(str(target))


def test_editable_install_points_at_the_checkout():
    assert Path(framesieve.processing.reducer.__file__) == ROOT / "processing" / "reducer.py"
    assert Path(framesieve.tango_db.__file__).parent == ROOT / "tango_db"
