"""Pictures of the panel for the documents: `python -m framesieve.clients.panel.screenshot [DIRECTORY]`.

Makes a beamline of its own on loopback: Tango database, device server, a simulated detector of a million pixels that
loses frames towards the end. Needs the extra `gui`; where there is no display, the pictures are made without one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "" if os.environ.get("DISPLAY") else "offscreen")

import numpy as np
import tango
from taurus.external.qt import QtCore, QtGui

from ...simulators.diffraction import StillSimulator
from ...simulators.frame_inputs import SimulatedInput
from ...simulators.misbehaviour import Misbehaviour
from ...simulators.raster import raster_scan
from ...simulators.stream2_detector import Stream2Detector
from ...tango_db import register, sample_path
from ...tango_db.beamline import load
from ...tango_db.embedded import EmbeddedDatabase, ServerProcess
from .names import HIGHEST, LAST_HIT, MAP, TOTAL
from .window import Panel, application

SHAPE = (1062, 1028)
FRAMES, RATE = 480, 8.0
COLUMNS = 24  # of the scan
LOST = range(100, 105)  # the server waits 256 frames for late ones before it says so
PATIENCE = 300.0  # s
SIZE = (1720, 1030)


def main(arguments: list[str]) -> int:
    directory = Path(arguments[0] if arguments else "docs/images")
    directory.mkdir(parents=True, exist_ok=True)
    app = application()
    with contextlib.ExitStack() as stack:
        output = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(EmbeddedDatabase())
        connection = database.database()
        register.apply(register.plan(load(sample_path("demo")), connection).changes, connection)
        server = stack.enter_context(ServerProcess("demo", database.host))
        prefix = f"tango://{database.host}/demo"
        stack.enter_context(_detector(output, prefix))
        panel = Panel()
        panel.setModel(prefix)
        panel.resize(*SIZE)
        panel.show()

        def wait(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
            end = time.monotonic() + seconds
            while not condition() and time.monotonic() < end:
                app.processEvents()
                server.check(may_end=True)  # at last it is told to
                time.sleep(0.02)

        def save(name: str, image: QtGui.QImage) -> None:
            with_few_colours(image).save(str(directory / f"panel_{name}.png"))
            print(directory / f"panel_{name}.png")

        def show(name: str) -> None:
            wait(lambda: False, 1.0)  # until everything that has changed is drawn and has its place
            panel.refresh()
            save(name, panel.grab().toImage())

        def choose(view: str) -> QtGui.QImage:
            panel.picture.show_only(view)
            wait(lambda: False, 1.5)
            return panel.picture.grab().toImage()

        get = panel.pipeline.get
        wait(lambda: not panel.pipeline.missing)
        panel.pipeline.command("Prepare")
        wait(lambda: panel.pipeline.state == "ON")
        panel.pipeline.command("Start")
        wait(lambda: 240 <= get("acquisition/frame_count", 0) < 340 and panel.pipeline.state == "RUNNING", 60)
        wait(lambda: len(get("acquisition/preview_peaks", get("peakfinder/last_peaks"))) > 50, 20)
        show("running")
        threshold = get("veto/min_peaks")
        panel.pipeline.write("veto/min_peaks", 90)
        wait(lambda: get("veto/min_peaks") == 90, 20)
        show("veto")
        panel.pipeline.write("veto/min_peaks", threshold)
        choose(LAST_HIT)
        wait(lambda: get("acquisition/frames_lost", 0) > 0)
        panel.pipeline.write("veto/min_peaks", 99999)
        wait(lambda: panel.pipeline.refusal("veto/min_peaks") is not None, 20)
        show("losing")
        wait(lambda: panel.pipeline.state == "STANDBY")
        save("views", side_by_side([choose(view) for view in (LAST_HIT, HIGHEST, TOTAL, MAP)]))
        choose(HIGHEST)
        panel.settings.setCurrentIndex(1)
        show("standby")
        server.close()
        wait(lambda: bool(panel.pipeline.missing))
        show("no_server")
        panel.end()
    return 0


def side_by_side(images: list[QtGui.QImage]) -> QtGui.QImage:
    """Two images in a row, two thirds as large."""
    size = images[0].size() / 1.5
    all_of_them = QtGui.QImage(2 * size.width(), -(-len(images) // 2) * size.height(), QtGui.QImage.Format_RGB32)
    painter = QtGui.QPainter(all_of_them)
    for place, image in enumerate(images):
        row, column = divmod(place, 2)
        smaller = image.scaled(size, QtCore.Qt.IgnoreAspectRatio, QtCore.Qt.SmoothTransformation)
        painter.drawImage(column * size.width(), row * size.height(), smaller)
    painter.end()
    return all_of_them


def with_few_colours(image: QtGui.QImage) -> QtGui.QImage:
    """The same in its 256 most frequent colours, which makes the file a third as long."""
    image = image.convertToFormat(QtGui.QImage.Format_RGB32)
    bits = image.bits()
    bits.setsize(image.byteCount())
    colours, counts = np.unique(np.frombuffer(bits, np.uint32) & 0xFFFCFCFC, return_counts=True)
    table = [int(colour) | 0xFF000000 for colour in colours[np.argsort(counts)[-256:]]]
    return image.convertToFormat(QtGui.QImage.Format_Indexed8, table, QtCore.Qt.ThresholdDither)


def _detector(output: Path, prefix: str) -> Stream2Detector:
    """A detector, and the devices set up for it."""
    simulator = StillSimulator(SHAPE, hit_share=0.3, n_frames=FRAMES, seed=3)
    poni = output / "simulated.poni"
    poni.write_text(simulator.poni_text())
    detector = Stream2Detector(
        SimulatedInput(simulator, 60),
        port=0,
        n_frames=FRAMES,
        rate=RATE,
        misbehaviour=Misbehaviour(lost=frozenset(LOST)),
        user_data=raster_scan(COLUMNS),
    )
    detector.start()
    acquisition = tango.DeviceProxy(f"{prefix}/framesieve/acquisition")
    settings = {
        "source": f"stream2://{detector.host}:{detector.port}",
        "geometry": str(poni),
        "saving_directory": str(output),
        "saving_prefix": "lysozyme",
    }
    for name, value in settings.items():
        acquisition.write_attribute(name, value)
    return detector


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # as in `window.run`
