"""Plots of what the benchmarks found, as PNG (or whatever the name of the file ends with)."""

from __future__ import annotations

from pathlib import Path

from ..processing.errors import ConfigurationError

_FORMATS = (".png", ".svg", ".pdf")
_BLUE, _ORANGE, _GREY, _DARK = "#2a6fbb", "#d9822b", "#8a8f98", "#3d4148"
_WIDTH = 10.0  # inches
_ROW = 2.6  # of the plot of steps, between two pixel types; the kernels' bar is 0.8 high


def check(path: Path) -> Path:
    """The path itself; raises `ConfigurationError` where no plot could be written there. To be called before
    anything is measured."""
    if path.suffix.lower() not in _FORMATS:
        raise ConfigurationError(f"--plot {path}: accepted are names that end with {', '.join(_FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise ConfigurationError(f"--plot {path}: there is no folder {path.absolute().parent}")
    _figure_class()
    return path


def _figure_class():
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigurationError("--plot needs matplotlib: pip install matplotlib") from None
    return Figure


def _figure(rows: int, columns: int, height: float, title: str):
    """A figure without any window system behind it, and its axes."""
    figure = _figure_class()(figsize=(_WIDTH, height), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    return figure, axes


def _save(figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise ConfigurationError(f"--plot {path}: cannot be written ({error.strerror})") from None


def plot_core(results: dict, path: Path) -> None:
    """Bars for the steps of each pixel type, the chain and the stream, and the roofline; below, a curve per sweep."""
    sweeps = results["sweeps"]
    rows = 1 + -(-len(sweeps) // 3)
    title = f"chain of the core, {results['device']}, {results['shape'][0]} × {results['shape'][1]} pixels"
    figure, axes = _figure(rows, 3, 2.8 * rows, title)
    for ax in axes[0]:
        ax.remove()
    grid = axes[0, 0].get_gridspec()
    _plot_steps(figure.add_subplot(grid[0, :]), results)
    for ax, (name, sweep) in zip(axes[1:].flat, sweeps.items(), strict=False):
        _plot_sweep(ax, sweep, results["ratios"].get(name))
    for ax in axes[1:].flat[len(sweeps) :]:
        ax.remove()
    _save(figure, path)


def _plot_steps(ax, results: dict) -> None:
    import matplotlib

    frames = results["frames"]
    names = list(dict.fromkeys(name for frame in frames.values() for name in frame["kernels_ms"]))
    colours = [matplotlib.colormaps["tab20"](i % 20) for i in range(len(names))]
    labels = []
    for row, (dtype, frame) in enumerate(frames.items()):
        y, left = _ROW * row, 0.0
        for name, colour in zip(names, colours, strict=True):
            width = frame["kernels_ms"].get(name, 0.0)
            ax.barh(y, width, left=left, color=colour, height=0.8, label=name if row == 0 else None)
            left += width
        for below, name, colour in ((0.75, "chain", _GREY), (1.25, "stream", _DARK)):
            ax.barh(y + below, frame[f"{name}_ms"], color=colour, height=0.4, label=name if row == 0 else None)
        roof = frame["roofline"]["ms_at_copy_speed"]
        ax.plot([roof, roof], [y - 0.5, y + 1.5], color="black", lw=1.5, ls="--")
        ax.annotate("roofline", (roof, y - 0.55), fontsize=7, ha="left", va="bottom", xytext=(3, 0),
                    textcoords="offset points")  # fmt: skip
        labels.append(f"{dtype}\n{frame['chain_ms']:.2f} ms")
    ax.set_yticks([_ROW * row + 0.4 for row in range(len(labels))], labels)
    ax.invert_yaxis()
    ax.set_xlabel("ms per frame", fontsize=8)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _plot_sweep(ax, sweep: dict, ratio: dict | None) -> None:
    cases = sweep["cases"]
    labels = [case["label"] for case in cases]
    medians = [case["chain_ms"] for case in cases]
    errors = [
        [m - case["quartiles_ms"][0] for m, case in zip(medians, cases, strict=True)],
        [case["quartiles_ms"][1] - m for m, case in zip(medians, cases, strict=True)],
    ]
    ax.errorbar(range(len(cases)), medians, yerr=errors, color=_BLUE, marker="o", ms=4, capsize=3)
    ax.set_xticks(range(len(cases)), labels)
    ax.set_xlim(-0.3, len(cases) - 0.7)
    ax.set_ylim(0, 1.15 * max(case["quartiles_ms"][1] for case in cases))
    ax.set_xlabel(sweep["title"], fontsize=8)
    ax.set_ylabel("ms per frame", fontsize=8)
    if ratio is not None:
        text = f"{ratio['above']} / {ratio['below']}: {ratio['ratio']:.2f} (wanted ≤ {ratio['limit']:g})"
        ax.set_title(text, fontsize=9)


def plot_live(results: dict, path: Path) -> None:
    """Over time: frames per second, memory, ring; and the processor time of every thread."""
    samples, threads = results["samples"], results["threads"]
    title = (
        f"live: {results['frames']['reduced']} frames of {results['shape'][0]} × {results['shape'][1]} "
        f"{results['dtype']}, {results['frames_per_s']:.1f} frames/s, {results['device']}"
    )
    shown = [thread for thread in threads if thread["cpu_ms_per_s"] >= 0.5][:24]
    figure, axes = _figure(2, 3, 3.0 + 0.2 * len(shown) + 0.8, title)
    grid = axes[0, 0].get_gridspec()
    grid.set_height_ratios([2.6, 0.6 + 0.2 * len(shown)])
    time = samples["seconds"]
    panels = (
        ("frame_rate", "frames per second", _BLUE),
        ("memory_mb", "memory of the server, MB", _ORANGE),
        ("buffer_occupancy", "ring, % full", _GREY),
    )
    for ax, (name, label, colour) in zip(axes[0], panels, strict=True):
        ax.plot(time, samples[name], color=colour, lw=1.2)
        ax.set_ylim(0, 1.15 * max([*samples[name], 1e-9]) if name != "buffer_occupancy" else 100)
        ax.set_xlabel("s", fontsize=8)
        ax.set_title(label, fontsize=9)
    for ax in axes[1]:
        ax.remove()
    ax = figure.add_subplot(grid[1, :])
    ax.spines[["top", "right"]].set_visible(False)
    names = [_thread_label(thread) for thread in shown]
    cpu = [thread["cpu_ms_per_s"] for thread in shown]
    ax.barh(range(len(shown)), cpu, color=_BLUE, label="on a core")
    if all(thread["waiting_ms_per_s"] is not None for thread in shown):
        waiting = [thread["waiting_ms_per_s"] for thread in shown]
        ax.barh(range(len(shown)), waiting, left=cpu, color=_ORANGE, alpha=0.6, label="waiting for a core")
        ax.legend(fontsize=8, frameon=False)
    ax.set_yticks(range(len(shown)), names, fontsize=8)
    ax.invert_yaxis()
    ax.tick_params(labelsize=8)
    ax.set_xlabel(f"ms per second, of {1000 * results['cpus']} on {results['cpus']} cores", fontsize=8)
    _save(figure, path)


def _thread_label(thread: dict) -> str:
    many = f" × {thread['count']}" if thread["count"] > 1 else ""
    return f"{thread['process']}: {thread['thread']}{many}"


def plot_clients(results: dict, path: Path) -> None:
    """Frames per second of every round, processor time, and how long clients waited."""
    rounds = results["rounds"]
    title = f"{results['clients']['number']} clients, {results['device']}, {results['cpus']} CPUs"
    figure, axes = _figure(1, 3, 3.4, title)
    rate, cpu, waited = axes[0]
    for which, colour, shift in (("without", _GREY, -0.2), ("with", _BLUE, 0.2)):
        places = [k + shift for k in range(1, len(rounds) + 1)]
        rate.bar(places, [row[which]["frames_per_s"] for row in rounds], width=0.4, color=colour, label=which)
        below = [0.0] * len(rounds)
        for part, shade in (("server", 1.0), ("clients", 0.5)):
            heights = [row[which]["cpu_ms_per_s"][part] for row in rounds]
            label = f"{part}, {which}" if part == "server" or which == "with" else None
            cpu.bar(places, heights, width=0.4, bottom=below, color=colour, alpha=shade, label=label)
            below = [low + height for low, height in zip(below, heights, strict=True)]
    rate.set_title("frames per second, with and without clients", fontsize=9)
    cpu.set_title("processor time, ms per second", fontsize=9)
    for ax in (rate, cpu):
        ax.set_xticks(range(1, len(rounds) + 1))
        ax.set_xlabel("round", fontsize=8)
        ax.legend(fontsize=7, frameon=False, loc="lower right")
    kinds = {
        "read": results["read_ms"]["others"],
        "read preview": results["read_ms"]["preview"],
        "write": results["write_ms"],
        "write → event": results["write_to_event_ms"]["own"],
        "… at the last client": results["write_to_event_ms"]["all_clients"],
    }
    for i, (name, values) in enumerate(kinds.items()):
        waited.plot([values["p50"], values["p99"]], [i, i], color=_BLUE, marker="|", ms=10)
        waited.annotate(name, (values["p50"], i), xytext=(0, 6), textcoords="offset points", fontsize=7)
    waited.set_xscale("log")
    waited.set_ylim(-0.5, len(kinds))
    waited.set_yticks([])
    waited.set_title("ms, median to 99 % of all", fontsize=9)
    _save(figure, path)


def plot_peers(results: dict, path: Path) -> None:
    """For each peer, how many times longer it takes, with quartiles; logarithmic."""
    rows = results["peers"]
    figure, axes = _figure(1, 1, 1.4 + 0.5 * max(len(rows), 1), f"peers against the whole chain, {results['device']}")
    ax = axes[0, 0]
    for i, row in enumerate(rows):
        low, high = row["quartiles"]
        error = [[row["ratio"] - low], [high - row["ratio"]]]
        ax.barh(i, row["ratio"] - 1, left=1, xerr=error, color=_BLUE, capsize=3)
        ax.annotate(
            f"{row['ratio']:.1f} ×   {row['peer_ms']:.0f} ms : {row['ours_ms']:.1f} ms",
            (high, i), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    ax.axvline(1, color="black", lw=1)
    ax.set_xscale("log")
    top = max([row["quartiles"][1] for row in rows], default=10)
    ax.set_xlim(0.5, 12 * top)
    ax.set_yticks(range(len(rows)), [f"{row['peer']}\n{row['task']}" for row in rows])
    ax.invert_yaxis()
    ax.set_xlabel("time of the peer / time of framesieve", fontsize=8)
    _save(figure, path)


def plot_sources(results: dict, path: Path) -> None:
    """For each source and pixel type the speed, with quartiles, and what a frame costs each thread."""
    rows = results["sources"]
    rows_, columns = results["shape"]
    title = f"sources alone: {rows_} × {columns}, {results['encoding']}, {results['cpus']} CPUs"
    figure, axes = _figure(1, 2, 1.6 + 0.45 * max(len(rows), 1), title)
    speed, cost = axes[0]
    for i, row in enumerate(rows):
        low, high = row["gb_per_s_quartiles"]
        error = [[row["gb_per_s"] - low], [high - row["gb_per_s"]]]
        speed.barh(i, row["gb_per_s"], xerr=error, color=_BLUE, capsize=3)
        speed.annotate(
            f"{row['frames_per_s']:.0f} frames/s", (high, i), xytext=(6, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip
        if (wanted := results["wanted_gb_per_s"].get(row["source"])) is not None:
            speed.plot([wanted, wanted], [i - 0.45, i + 0.45], color=_ORANGE, lw=2)
        left = 0.0
        for (task, ms), colour in zip(row["cpu_ms_per_frame"].items(), (_BLUE, _GREY, _ORANGE), strict=True):
            cost.barh(i, ms, left=left, color=colour, label=task if i == 0 else None)
            left += ms
    labels = [f"{row['source']}\n{row['dtype']}" for row in rows]
    for ax in (speed, cost):
        ax.set_yticks(range(len(rows)), labels)
        ax.invert_yaxis()
    speed.set_xlim(0, 1.35 * max([row["gb_per_s_quartiles"][1] for row in rows], default=1))
    speed.set_xlabel("GB/s, uncompressed (orange: wanted)", fontsize=8)
    cost.set_xlabel("processor time per frame, ms", fontsize=8)
    cost.legend(fontsize=8, frameon=False)
    _save(figure, path)
