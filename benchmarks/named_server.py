"""The device server as `bench live` starts it: the same, with names on its threads."""

from __future__ import annotations

import contextlib
import threading
import time

from ..devices import server
from ..processing.errors import FrameSieveError
from ..processing.opencl import choose_device
from ..processing.thread_names import name_thread, name_threads

_PERIOD = 0.5  # s; threads come and go with every run


def main() -> None:
    # what the driver starts inherits the name of the thread that first uses it
    name_thread("opencl")
    with contextlib.suppress(FrameSieveError):  # it will be told when a run needs a device
        choose_device("auto")
    name_thread("tango")
    threading.Thread(target=_keep_naming, name="naming", daemon=True).start()
    server.main()


def _keep_naming() -> None:
    while True:
        name_threads()
        time.sleep(_PERIOD)


if __name__ == "__main__":
    main()
