"""A program that uses the controller ends when it ends, whatever its run is doing."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import h5py
import numpy as np
from framesieve.acquisition.controller import RunController

folder, frames, wait = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "wait"
with h5py.File(f"{folder}/in.h5", "w") as file:
    data = np.random.default_rng(0).poisson(9, (40, 256, 256)).astype(np.uint16)
    file.create_dataset("data", data=np.tile(data, (frames // 40, 1, 1)))
open(f"{folder}/a.poni", "w").write(
    "poni_version: 2\\nDetector: Detector\\nDetector_config: {\\"pixel1\\": 1e-4, \\"pixel2\\": 1e-4}\\n"
    "Distance: 0.1\\nPoni1: 0.01\\nPoni2: 0.01\\n"
)
controller = RunController()
controller.configure(source=f"file:{folder}/in.h5::/data", geometry=f"{folder}/a.poni", saving_file=f"{folder}/out.h5")
controller.parameters.update(veto_min_peaks=0)
controller.start()
if wait:
    assert controller.wait(60)
print(controller.state.name)
"""


@pytest.mark.parametrize("frames, wait, state", [(40, "wait", "STANDBY"), (8000, "go", "INIT")])
def test_the_interpreter_ends(tmp_path, frames, wait, state):
    program = [sys.executable, "-c", SCRIPT, str(tmp_path), str(frames), wait]
    done = subprocess.run(program, capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, state, "")
