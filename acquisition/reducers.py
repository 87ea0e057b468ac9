"""The reducers of a run, one for each OpenCL device."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence

import numpy as np

from ..processing.bins import RadialBins
from ..processing.errors import FrameSieveError, HardwareError
from ..processing.frames import SeriesStart
from ..processing.opencl import DeviceChoice
from ..processing.reducer import Reducer
from ..sources.decoder_choice import choose_decoder
from .collector import Collector

log = logging.getLogger(__name__)


class Reducers:
    """Made once, as soon as shape and pixel type of the frames are known.

    Parameters
    ----------
    make_bins
        The bins for a shape and what is told of a series (`Images.bins`).
    dark
        See `Reducer`.
    collector
        Is told which devices are in use, and where compressed frames are decoded.
    decode_threads
        Frames that are decoded at once on the host.
    """

    def __init__(
        self,
        devices: Sequence[DeviceChoice],
        make_bins: Callable[[tuple[int, int], SeriesStart], RadialBins],
        dark: np.ndarray | None,
        batch_size: int,
        collector: Collector,
        *,
        decode_threads: int,
    ) -> None:
        self._devices = devices
        self._make_bins = make_bins
        self._dark = dark
        self._batch_size = batch_size
        self._collector = collector
        self._decode_threads = decode_threads
        self._decoding: dict[str, str] = {}  # for each device
        self.are_compressed = False  # whether frames may come as bslz4 chunks
        self._kind: tuple[RadialBins, np.dtype] | None = None
        self._made: list[Reducer] = []
        collector.set_devices([device.name for device in devices])

    def make(self, start: SeriesStart) -> list[Reducer]:
        """Reducers for the frames of a series of known shape and pixel type, which can be used without delay. Of
        several devices, those on which that fails are left out.

        Raises
        ------
        FrameSieveError
            The frames do not fit to the geometry, or no device can be used.
        """
        bins, dtype = self._make_bins(start.shape, start), start.dtype
        if self._made and self._kind[0] is bins and self._kind[1] == dtype:
            return self._made
        if self._kind is not None:
            log.info("bins and kernels are made anew: the frames are %s of type %s", start.shape, dtype)
        self.close()
        errors = []
        for device in self._devices:
            try:
                self._made.append(self._make_one(bins, dtype, device))
            except HardwareError as error:
                errors.append(error)
        if not self._made:
            raise errors[0]
        for error in errors:
            log.error("left out: %s", error)
            self._collector.set_error(f"left out: {error}")
        self._collector.set_devices([reducer.device.name for reducer in self._made])
        self._kind = (bins, dtype)
        return self._made

    def expect(self, start: SeriesStart) -> None:
        """Make them for a series that is likely to come. Where another comes they are made again, and what fails now
        may not fail then."""
        try:
            self.make(start)
        except FrameSieveError as error:
            log.info("nothing is prepared for frames of type %s: %s", start.dtype, error)

    @property
    def dtype(self) -> np.dtype | None:
        """The pixel type for which they were made last."""
        return self._kind[1] if self._kind else None

    def _make_one(self, bins: RadialBins, dtype: np.dtype, device: DeviceChoice) -> Reducer:
        reducer = Reducer(bins, dtype, device, dark=self._dark, batch_size=self._batch_size)
        try:
            if self.are_compressed:
                self._choose_decoder(reducer)
            reducer.warm_up()
        except BaseException:
            reducer.close()
            raise
        return reducer

    def _choose_decoder(self, reducer: Reducer) -> None:
        choice = choose_decoder(
            reducer.device,
            reducer.bins.shape,
            reducer.dtype,
            n_threads=self._decode_threads,
            batch_size=self._batch_size,
        )
        where, reason = choice.where, choice.reason
        if where == "device":
            try:
                reducer.decode_on_device()
            except HardwareError as error:
                where, reason = "host", str(error)
        log.info("%s: frames are decoded on the %s (%s)", reducer.device.name, where, reason)
        self._decoding[reducer.device.name] = f"{where}: {reason}"
        self._collector.decoding = "; ".join(
            text if len(self._devices) == 1 else f"{name}: {text}" for name, text in self._decoding.items()
        )

    def close(self) -> None:
        """Give the memory of the devices back."""
        made, self._made = self._made, []
        with contextlib.ExitStack() as stack:  # every one is closed, also where closing another fails
            for reducer in made:
                stack.callback(reducer.close)
