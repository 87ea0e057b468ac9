"""Makes a folder with which DIALS opens sparse files: `python -m framesieve.formats.dxtbx_plugin FOLDER`.

    PYTHONPATH=FOLDER dials.import sparse.h5

Installing the package into the Python of DIALS does the same, where pip can do that with all that the package
requires: dxtbx up to 3.12 looks at requirements before it loads a class, and refuses every file of any kind where one
is missing. The folder requires nothing. It has links to this installation, which must stay where it is, and be
readable to those who use it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hdf5plugin

from .. import processing
from ..processing.errors import ConfigurationError
from .hdf5_writer import PROGRAM, VERSION

ENTRY_POINT = "FormatFramesieve:FormatHDF5 = framesieve.formats.dxtbx_format:FormatFramesieve"


def make_plugin(folder: Path) -> None:
    """A new folder for PYTHONPATH of DIALS.

    Raises
    ------
    ConfigurationError
        It exists and is not empty, or cannot be written.
    """
    links = {
        f"framesieve/{name}": Path(place)
        for name, place in (
            ("formats", Path(__file__).parent),
            ("processing", Path(processing.__file__).parent),
        )
    }
    links["hdf5plugin"] = Path(hdf5plugin.__file__).parent
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigurationError(f"{folder} is not empty; name a new folder")
        (folder / "framesieve").mkdir(parents=True)
        for name, place in links.items():
            (folder / name).symlink_to(place.resolve(), target_is_directory=True)
        about = folder / f"{PROGRAM}-{VERSION}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PROGRAM}\nVersion: {VERSION}\n")
        (about / "entry_points.txt").write_text(f"[dxtbx.format]\n{ENTRY_POINT}\n")
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror}; name another folder") from error


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m framesieve.formats.dxtbx_plugin FOLDER")
    try:
        make_plugin(Path(sys.argv[1]))
    except ConfigurationError as error:
        sys.exit(str(error))
    print(f"PYTHONPATH={Path(sys.argv[1]).resolve()} dials.import sparse.h5")


if __name__ == "__main__":
    main()
