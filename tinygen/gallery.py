"""Pictures: grids of images, completions, points of the plane, what a model has to show, and a run's curves, as PNG files.

Image grids are written with zlib alone, so they need no library, hold no date and are the same bytes for the same
pixels. Only points, lines and maps import matplotlib.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tinygen.models.pictures import Images, Lines, Maps, Picture, Points
from tinygen.nn.serialize import write_atomically

SEPARATOR = 64  # grey value of the lines between two images
UNOBSERVED = 0.5
GRID = 200  # points along each side where a density is drawn


def grid(images: np.ndarray, columns: int | None = None, gap: int = 1) -> np.ndarray:
    """Tile `images` (n, height, width) or (n, height, width, 3), values in [0, 1], into one uint8 picture, row by row.

    `columns` defaults to the least number that gives no more rows than columns; `gap` grey pixels separate the images.
    Values outside [0, 1] are cut off. Raises ValueError for another shape or no image.
    """
    images = np.asarray(images)
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3) or len(images) == 0:
        raise ValueError(f"images of shape {images.shape}: expected (n, height, width) or (n, height, width, 3), n > 0")
    n, height, width = images.shape[:3]
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, *images.shape[3:])
    picture = np.full(shape, SEPARATOR, np.uint8)
    pixels = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    for i, image in enumerate(pixels):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        picture[top : top + height, left : left + width] = image
    return picture


def completions(given: np.ndarray, observed: np.ndarray, completed: np.ndarray) -> np.ndarray:
    """Three rows of images, one uint8 picture: what the model was given, what it made of it, and the original.

    given: the originals, (n, height, width). observed: (height, width), False where the model had to fill in, drawn
    grey in the first row. completed: as `given`.
    """
    shown = np.where(observed, given, UNOBSERVED)
    return grid(np.concatenate([shown, completed, given]), columns=len(given))


def png(pixels: np.ndarray, scale: int = 1) -> bytes:
    """The PNG file of a uint8 picture (height, width) or (height, width, 3), each pixel `scale` x `scale` large.

    Format: ISO/IEC 15948, with one filter (none) for all lines. Raises TypeError when the pixels are not uint8.
    """
    if pixels.dtype != np.uint8:
        raise TypeError(f"pixels are {pixels.dtype}, expected uint8; `grid` makes them from values in [0, 1]")
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = pixels.shape[:2]
    colour = {2: 0, 3: 2}[pixels.ndim]  # 0: grey, 2: red, green, blue
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)),
            (b"IDAT", zlib.compress(lines.tobytes(), 9)),
            (b"IEND", b""),
        )
    )


def write_png(path: str | os.PathLike, pixels: np.ndarray, scale: int = 2) -> None:
    """Write the picture to `path` in one step; see `png`."""
    write_atomically(path, png(pixels, scale))


def image_scale(shape: Sequence[int]) -> int:
    """How large a pixel of images of `shape` is drawn: those of 4 x 4 would be lost at the size that suits 28 x 28."""
    return max(2, 32 // shape[0])


def write_picture(path: str | os.PathLike, picture: Picture, shape: Sequence[int]):
    """Draw what a model has to show (models/pictures.py); `shape` is that of an example, as which `Images` are drawn."""
    if isinstance(picture, Images):
        rows, columns = picture.examples.shape[:2]
        write_png(path, grid(picture.examples.reshape(rows * columns, *shape), columns), image_scale(shape))
    else:
        {Points: _write_points, Lines: _write_lines, Maps: _write_maps}[type(picture)](path, picture)


def _write_points(path: str | os.PathLike, picture: Points):
    figure, panels = _panels(picture.panels, 4.6, sharex=True, sharey=True)
    for axes, groups in zip(panels, picture.panels.values(), strict=True):
        for name, points in groups.items():
            axes.scatter(*np.asarray(points).T, s=4, linewidths=0, alpha=0.7, label=name)
        axes.set_aspect("equal")
        _add_legend(axes, groups)
    _write_figure(path, figure)


def _write_lines(path: str | os.PathLike, picture: Lines):
    figure, panels = _panels(picture.panels, 4.2, sharex=True)
    for axes, lines in zip(panels, picture.panels.values(), strict=True):
        for name, values in lines.items():
            axes.plot(picture.x, values, label=name)
        axes.grid(alpha=0.3)
        _add_legend(axes, lines)
    _write_figure(path, figure)


def _write_maps(path: str | os.PathLike, picture: Maps):
    figure, panels = _panels(picture.panels, 4.2, sharex=True, sharey=True)
    left, right, bottom, top = picture.extent
    for axes, values in zip(panels, picture.panels.values(), strict=True):
        image = axes.imshow(values, origin="lower", extent=picture.extent, aspect="auto")
        for name, points in picture.points.items():
            axes.scatter(*np.asarray(points).T, s=3, linewidths=0, alpha=0.6, color="white", label=name)
        axes.set(xlim=(left, right), ylim=(bottom, top))
        figure.colorbar(image, ax=axes)
    _write_figure(path, figure)


def _panels(titles: Sequence[str], width: float, height: float = 4.2, **options: Any) -> tuple[Any, Sequence[Any]]:
    """A figure and its axes side by side, one with each of `titles` ("" for none), each `width` by `height` inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * len(titles), height), layout="constrained")
    panels = figure.subplots(1, len(titles), squeeze=False, **options)[0]
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
    return figure, panels


def _add_legend(axes: Any, names: Sequence[str]) -> None:
    if len(names) > 1:
        axes.legend(fontsize="small", markerscale=3)


def write_plane(
    path: str | os.PathLike,
    data: np.ndarray,
    samples: np.ndarray,
    log_prob: Callable[[np.ndarray], np.ndarray] | None = None,
):
    """Draw points of the plane (n, 2), the data's beside a model's samples and, with `log_prob`, the density of the model.

    log_prob: ln p(x) in nats of float32 points (m, 2), asked for on a grid. The frame is the data's with a margin: samples
    outside it are not seen, their share is told.
    """
    low, high = data.min(axis=0), data.max(axis=0)
    margin = 0.1 * (high - low).max()
    left, right, bottom, top = frame = [*np.stack([low - margin, high + margin], axis=1).ravel()]
    outside = ((samples < [left, bottom]) | (samples > [right, top])).any(axis=1).mean()
    titles = ["data", "samples" + (f" ({outside:.1%} outside)" if outside else ""), "density"]
    figure, panels = _panels(titles[:2] if log_prob is None else titles, 3.6, 3.9)
    for axes, points in zip(panels, (data, samples)):
        axes.scatter(*points.T, s=2, linewidths=0, alpha=0.6)
    if log_prob is not None:
        x, y = np.meshgrid(np.linspace(left, right, GRID), np.linspace(bottom, top, GRID))
        density = np.exp(log_prob(np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)).reshape(GRID, GRID))
        panels[2].imshow(density, origin="lower", extent=frame, vmax=np.quantile(density, 0.999), interpolation="bilinear")
    for axes in panels:
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xticks=[], yticks=[])
    _write_figure(path, figure)


def write_curves(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], title: str, target: float | None = None):
    """Draw the figures of metrics.csv over the epochs: training and held-out ones of one name share a panel.

    `target` adds a horizontal line to the panel of the likelihood.
    """
    drawn = curves(rows)
    figure, panels = _panels([""] * len(drawn), 6.4)
    for axes, (label, lines) in zip(panels, drawn.items(), strict=True):
        for name, (epochs, values) in lines.items():
            axes.plot(epochs, values, label=name, marker="." if len(epochs) < 30 else None)
        if target is not None and label == "nats":
            axes.axhline(target, color="grey", linestyle="--", label=f"target {target:g}")
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    _write_figure(path, figure)


def write_comparison(
    path: str | os.PathLike, runs: Mapping[str, Sequence[Mapping[str, Any]]], column: str, label: str, title: str
):
    """Draw one column of several runs' metrics.csv over the epochs, a line for each: `runs` is {legend's text: rows}.

    The vertical axis leaves out what is higher than the lines' last three quarters: there the difference would be hidden.
    """
    figure, (axes,) = _panels([""], 6.4)
    lines = {name: [(row["epoch"], row[column]) for row in rows if column in row] for name, rows in runs.items()}
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
    low = min(value for points in lines.values() for _, value in points)
    high = max(value for points in lines.values() for _, value in points[len(points) // 4 :])
    margin = 0.05 * (high - low) or 1.0
    last = max(epoch for points in lines.values() for epoch, _ in points)
    axes.set(xlabel="epoch", ylabel=label, xlim=(0.5, last + 0.5), ylim=(low - margin, high + margin))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(title)
    _write_figure(path, figure)


def _write_figure(path: str | os.PathLike, figure: Any) -> None:
    """Write a figure of matplotlib; the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    write_atomically(path, file.getvalue())


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[list, list]]]:
    """The lines to draw: {panel's label: {line's name: (epochs, values)}}.

    The loss and the held-out negative log-likelihoods are in nats and share a panel; bits/dim, which is the same curve in
    another unit, is left out.
    """
    panels: dict[str, dict[str, tuple[list, list]]] = {}
    has_likelihood = any(column.startswith("valid_") and column.endswith("nll") for row in rows for column in row)
    for row in rows:
        for column, value in row.items():
            split, _, name = column.partition("_")
            if split not in ("train", "valid", "test") or name == "bits_per_dim":
                continue
            label = "nats" if has_likelihood and (name == "loss" or name.endswith("nll")) else name
            epochs, values = panels.setdefault(label, {}).setdefault(f"{split} {name}", ([], []))
            epochs.append(row["epoch"])
            values.append(value)
    return panels
