"""Whether the PoCL of PyPI can link kernels: it runs `ld` for each of them, with libgcc, libgcc_s and libc.

Where one of these is missing PoCL ends the whole process as soon as a kernel is launched. So it is found out before,
in two steps: a library without content is linked in the same way, which takes some ms; where that fails, perhaps only
because things lie elsewhere than is looked for them here, a process of its own builds and runs a kernel.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_PATIENCE = 60.0  # s for the linker, or for a kernel
_LIBRARIES = ("-lgcc", "--as-needed", "-lgcc_s", "--no-as-needed", "-lc")


def linker_problem() -> str:
    """Why PoCL cannot link kernels, '' where it can, and where that cannot be found out."""
    try:
        return "" if _links() else _problem_of_a_kernel()
    except OSError:  # there is no room for temporary files
        return ""


def _links() -> bool:
    """Whether a library can be linked in the way PoCL does it."""
    linker = shutil.which("ld", path=os.environ.get("PATH", ""))
    if linker is None:
        return False
    with tempfile.TemporaryDirectory(prefix="framesieve-ld-") as folder:
        paths = [f"-L{path}" for path in _folders()]
        command = [linker, "-shared", "-o", f"{folder}/nothing.so", *paths, *_LIBRARIES]
        try:
            return subprocess.run(command, capture_output=True, timeout=_PATIENCE).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False


def _folders() -> list[str]:
    """Where libraries are looked for: with the newest gcc of this processor, and at the usual places."""
    found = Path("/usr/lib/gcc").glob(f"{platform.machine()}-*linux*/*/crtbegin.o")
    newest = max((file.parent for file in found), key=_version, default=None)
    folders = []
    if newest is not None:
        name = newest.parent.name  # of Debian's folders for this processor, too
        folders = [str(newest), f"/lib/{name}", f"/usr/lib/{name}"]
    return [*folders, "/lib/../lib64", "/usr/lib/../lib64", "/lib", "/usr/lib"]


def _version(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def _problem_of_a_kernel() -> str:
    """What PoCL says when it ends a process of its own that launches a kernel, '' where it does not."""
    with tempfile.TemporaryDirectory(prefix="framesieve-pocl-") as folder:
        code = f"from {__package__}.opencl import try_out_pocl; try_out_pocl()"
        environment = os.environ | {"POCL_CACHE_DIR": folder}  # so that there is none that has been linked already
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", code],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PATIENCE,
                env=environment,
            )
        except OSError:
            return ""
        except subprocess.TimeoutExpired:
            return f"it has not linked one within {_PATIENCE:g} s"
    if done.returncode >= 0:  # what else may be wrong, this process sees for itself
        return ""
    if missing := dict.fromkeys(re.findall(r"cannot find (-l\w+)", done.stderr)):
        return f"the linker ld does not find {', '.join(missing)}"
    if "doesn't exist" in done.stderr:
        return "there is no linker ld in PATH"
    return " ".join(done.stderr.split()) or f"signal {-done.returncode}"
