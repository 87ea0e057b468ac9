"""The messages of a DECTRIS stream v1: parts of JSON and of bytes, as in DECTRIS' documentation of the SIMPLON API.

Shapes are written [fast, slow], times in ns on the detector's own clock.
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import numpy as np

from .detector_layout import saturation
from .frame_inputs import DetectorInfo

#: rows of the table that corrects count rates: measured and true rate
COUNTRATE_POINTS = 1001


def encoding_name(encoding: str, dtype: np.dtype) -> str:
    """What the stream calls "bslz4", "lz4" or "none" for pixels of `dtype`."""
    return {"bslz4": f"bs{8 * dtype.itemsize}-lz4<", "lz4": "lz4<", "none": "<"}[encoding]


def header_message(
    info: DetectorInfo,
    *,
    series: int,
    number_of_images: int,
    frame_time: float,
    date: datetime,
    header_detail: str,
    encoding: str,
    appendix: bytes | None,
) -> list[bytes]:
    """The header of a series. `header_detail` "none" leaves out the configuration, "basic" the tables.

    Numbers that are not known are sent as 0, as an unconfigured detector does.
    """
    parts = [_json(htype="dheader-1.0", series=series, header_detail=header_detail)]
    if header_detail != "none":
        parts.append(_json(**_configuration(info, number_of_images, frame_time, date, encoding)))
    if header_detail == "all":
        mask = info.pixel_mask if info.pixel_mask is not None else np.zeros(info.shape, np.uint32)
        rates = np.linspace(0, saturation(info.dtype) / frame_time, COUNTRATE_POINTS, dtype=np.float32)
        for name, table in (
            ("dflatfield-1.0", np.ones(info.shape, np.float32)),
            ("dpixelmask-1.0", mask),
            ("dcountrate_table-1.0", np.stack([rates, rates])),
        ):
            parts.append(_json(htype=name, shape=list(table.shape[::-1]), type=table.dtype.name))
            parts.append(np.ascontiguousarray(table).tobytes())
    return _with(parts, appendix)


def _configuration(
    info: DetectorInfo, number_of_images: int, frame_time: float, date: datetime, encoding: str
) -> dict[str, Any]:
    def known(value: float) -> float:
        return value if math.isfinite(value) else 0.0

    bits = 8 * info.dtype.itemsize
    return {
        "auto_summation": False,
        "beam_center_x": known(info.beam_center[0]),
        "beam_center_y": known(info.beam_center[1]),
        "bit_depth_image": bits,
        "bit_depth_readout": min(bits, 16),
        "compression": encoding,
        "count_time": frame_time,
        "countrate_correction_applied": False,
        "countrate_correction_count_cutoff": saturation(info.dtype),
        "data_collection_date": date.isoformat(timespec="milliseconds"),
        "description": info.description,
        "detector_distance": known(info.distance),
        "detector_number": "SIM-0001",
        "detector_readout_time": 0.0,
        "detector_translation": [0.0, 0.0, -known(info.distance)],
        "flatfield_correction_applied": False,
        "frame_time": frame_time,
        "nimages": number_of_images,
        "ntrigger": 1,
        "omega_increment": 0.0,
        "omega_start": 0.0,
        "photon_energy": known(info.energy),
        "pixel_mask_applied": info.pixel_mask is not None,
        "sensor_material": "Si",
        "sensor_thickness": 450e-6,
        "software_version": "1.8.0",
        "threshold_energy": 0.5 * known(info.energy),
        "trigger_mode": "ints",
        "virtual_pixel_correction_applied": False,
        "wavelength": known(info.wavelength),
        "x_pixel_size": known(info.pixel_size),
        "x_pixels_in_detector": info.shape[1],
        "y_pixel_size": known(info.pixel_size),
        "y_pixels_in_detector": info.shape[0],
    }


def image_message(
    data: bytes,
    info: DetectorInfo,
    *,
    series: int,
    frame: int,
    encoding: str,
    start: int,
    exposure: int,
    appendix: bytes | None,
) -> list[bytes]:
    """One image, whose bytes `data` are encoded by `encoding` ("bslz4", "lz4" or "none"); times in ns."""
    parts = [
        # what a detector's hash is taken of is not documented; in recorded messages it is not the bytes
        _json(htype="dimage-1.0", series=series, frame=frame, hash=f"{frame:032x}"),
        _json(
            htype="dimage_d-1.0",
            shape=[info.shape[1], info.shape[0]],
            type=info.dtype.name,
            encoding=encoding_name(encoding, info.dtype),
            size=len(data),
        ),
        data,
        _json(htype="dconfig-1.0", start_time=start, stop_time=start + exposure, real_time=exposure),
    ]
    return _with(parts, appendix)


def end_message(*, series: int) -> list[bytes]:
    """The end of a series."""
    return [_json(htype="dseries_end-1.0", series=series)]


def _with(parts: list[bytes], appendix: bytes | None) -> list[bytes]:
    return parts if appendix is None else [*parts, appendix]


def _json(**fields: Any) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()
