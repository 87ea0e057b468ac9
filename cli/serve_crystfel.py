"""`framesieve serve-crystfel`: the frames of a sparse file for CrystFEL, over ZeroMQ."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated

import typer

from ..processing.errors import ConfigurationError
from .common import FAILED, exit_status, progress_display, stop_on_signals

_POLL = 100  # ms
_LINGER = 10_000  # ms, for the last answers


def serve_crystfel(
    sparse: Annotated[Path, typer.Argument(help="A sparse file of framesieve or of pyFAI.")],
    endpoint: Annotated[str, typer.Option(help="Where indexamajig asks for frames.")] = "tcp://127.0.0.1:5555",
    geometry: Annotated[Path | None, typer.Option(help="Write the geometry file that belongs to it, here.")] = None,
    noise: Annotated[bool, typer.Option("--noise/--no-noise", help="Whether the background has noise.")] = True,
    seed: Annotated[
        int | None, typer.Option(help="What noise is drawn from; else it follows from series and frame number.", min=0)
    ] = None,
    threads: Annotated[int, typer.Option(help="Frames that are made ahead, each by a thread.", min=1, max=64)] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing geometry file.")] = False,
) -> None:
    """Answer each request with the next frame and its peaks; end after the last one.

    indexamajig --zmq-input=tcp://127.0.0.1:5555 --zmq-request=next --data-format=msgpack --peaks=msgpack -g FILE.geom
    """
    with exit_status("serve-crystfel", stopped=FAILED), stop_on_signals(at_once=False) as check_stop:
        from ..formats.crystfel_geom import write_geom
        from ..formats.crystfel_stream import stream_geometry
        from ..formats.nexus import geometry_of
        from ..formats.sparse_reader import SparseFile

        with SparseFile(sparse) as file:
            if geometry is not None:
                if geometry.exists() and not overwrite:
                    raise ConfigurationError(f"{geometry} exists; name another file, or replace it with --overwrite")
                geometry.write_text(stream_geometry(write_geom(geometry_of(file.run_info()))))
            count = len(file)
            with progress_display() as display:
                task = display.add_task("serving", total=count)

                def served() -> None:
                    display.advance(task)

                _serve(endpoint, _messages(file, noise, seed, threads), check_stop, served)
        print(f"{count} frames of {sparse} served")


def _messages(file, noise: bool, seed: int | None, threads: int) -> Iterator[bytes]:
    from ..formats.crystfel_stream import message
    from ..processing.threads import thread_pool

    waiting: deque[Future] = deque()
    pool = thread_pool(threads, "densify")
    try:
        for row in range(len(file)):
            waiting.append(pool.submit(message, file, row, noise=noise, seed=seed))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _serve(
    endpoint: str, messages: Iterator[bytes], check_stop: Callable[[], None], served: Callable[[], None]
) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        socket.linger = _LINGER
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise ConfigurationError(f"{endpoint}: {error}; accepted is e.g. tcp://127.0.0.1:5555") from error
        try:
            for answer in messages:
                while not socket.poll(_POLL):
                    check_stop()
                socket.recv()  # whatever it says: there is only one thing to ask for
                socket.send(answer)
                served()
        except KeyboardInterrupt:
            socket.linger = 0
            raise
        finally:
            messages.close()
