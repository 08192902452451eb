"""Compute one fractal, and write it as an image (PNG).

    python fractal.py mandelbrot --centre=-0.5 --width=3

This program does not know PiCaS. It writes fractal.png into the folder $PICAS_RESULTS, or else into the working
directory.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Callable

try:
    import numpy as np
except ImportError as error:
    sys.exit(f"NumPy is not installed in {sys.executable} ({error}): pip install numpy")

PALETTES = Path(__file__).resolve().parent / "palettes"
DEFAULT_SIZE = "720x480"
SAMPLES = 3
"""Each pixel is the mean of so many points, squared."""
RADIUS = 64.0
"""A point that comes farther than this from 0 never returns. A large radius makes the colours smooth."""
BAND = 8192
"""About how many points are computed together: few enough for the cache of a processor."""
COLOURS = 2047
"""The colours of an image, besides black for the points that stay."""
CYCLE = 6.0
"""All colours have had their turn when the number of steps has been doubled so often."""


def escape_times(
    kind: str,
    centre: complex,
    width: float,
    shape: tuple[int, int],
    c: complex = 0,
    iterations: int = 500,
    progress: Callable[[int], None] = lambda percent: None,
) -> np.ndarray:
    """Return after how many steps each point escapes, as an array of rows; infinity for the points that stay.

    The step is z -> z^2 + constant. In "mandelbrot" and "ship" the constant is the point and z begins with `c`; in
    "julia" z begins with the point and the constant is `c`. "ship" makes the real part of z positive and the imaginary
    part negative before each step.

    :param kind: "mandelbrot", "julia" or "ship"
    :param centre: the point in the middle of the image
    :param width: the width of the image, in the plane of the points
    :param shape: the numbers of rows and columns
    :param progress: called with the percentage of the points that are done, in steps of ten
    """
    rows, columns = shape
    across = (np.arange(columns) - (columns - 1) / 2) * (width / columns)
    down = (np.arange(rows) - (rows - 1) / 2) * (width / columns)
    times = np.empty(shape)
    band = max(1, BAND // columns)
    percent = 0
    for first in range(0, rows, band):
        points = centre + across[np.newaxis, :] - 1j * down[first : first + band, np.newaxis]
        times[first : first + band] = _escape(kind, points.ravel(), c, iterations).reshape(points.shape)
        done = 10 * min(rows, first + band) // rows * 10
        if done > percent:
            progress(done)
            percent = done
    return times


def _escape(kind: str, points: np.ndarray, c: complex, iterations: int) -> np.ndarray:
    times = np.full(points.size, np.inf)
    left = np.arange(points.size)  # the points that are still there
    start = np.full(points.size, complex(c))
    z, constant = (points, start) if kind == "julia" else (start, points)
    for step in range(iterations):
        if kind == "ship":
            z = np.abs(z.real) - 1j * np.abs(z.imag)
        z = z * z + constant
        distance = z.real**2 + z.imag**2
        escaped = distance > RADIUS**2
        if escaped.any():
            times[left[escaped]] = step + 2 - np.log2(np.log(distance[escaped]) / np.log(RADIUS))
            stay = ~escaped
            left, z, constant = left[stay], z[stay], constant[stay]
            if not left.size:
                break
    return times


def read_palette(name: str) -> np.ndarray:
    """Return the red, green and blue of black, and of colours that lead through those of a file and back.

    :raises SystemExit: if there is no such file
    """
    path = PALETTES / f"{name}.txt"
    if not path.is_file():
        sys.exit(f"there is no palette '{name}': write its colours into {path}")
    corners = np.array([list(bytes.fromhex(line.lstrip("#"))) for line in path.read_text(encoding="utf-8").split()])
    closed = np.vstack([corners, corners[:1]])
    places = np.linspace(0, len(corners), COLOURS, endpoint=False)
    colours = [np.interp(places, np.arange(len(closed)), channel) for channel in closed.T]
    return np.vstack([[0, 0, 0], np.round(np.stack(colours, axis=1))]).astype(np.uint8)


def paint(times: np.ndarray, colours: np.ndarray, samples: int = 1) -> np.ndarray:
    """Return the red, green and blue of each pixel of an image.

    :param times: what `escape_times` returned
    :param colours: what `read_palette` returned
    :param samples: the mean of so many rows and columns is one pixel
    """
    stays = ~np.isfinite(times)
    steps = np.log2(1 + np.maximum(np.where(stays, 0, times), 0))
    numbers = np.where(stays, 0, 1 + (steps * COLOURS / CYCLE).astype(int) % COLOURS)
    rows, columns = (length // samples for length in times.shape)
    return colours[numbers].reshape(rows, samples, columns, samples, 3).mean(axis=(1, 3)).astype(np.uint8)


def to_png(pixels: np.ndarray) -> bytes:
    """Return an image as a PNG.

    :param pixels: the red, green and blue of each, from 0 to 255, in an array of rows
    """

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows, columns, _ = pixels.shape
    lines = pixels.copy()
    lines[:, 1:] -= pixels[:, :-1]  # the difference from the pixel on the left is smaller when it is compressed
    filtered = np.hstack([np.ones((rows, 1), np.uint8), lines.reshape(rows, -1)])  # 1 says so at the start of a line
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)  # 8 bits for each of red, green and blue
    content = zlib.compress(filtered.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def _size(text: str) -> tuple[int, int]:
    """Convert "768x512" to the numbers of rows and columns."""
    columns, _, rows = text.partition("x")
    if not (columns.isdigit() and rows.isdigit() and int(columns) and int(rows)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size like {DEFAULT_SIZE}")
    return int(rows), int(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=["mandelbrot", "julia", "ship"])
    parser.add_argument("--centre", type=complex, default=0, help="the point in the middle, such as -0.75+0.1j")
    parser.add_argument("--width", type=float, default=4, help="the width of the image (default: 4)")
    parser.add_argument("--c", type=complex, default=0, help="the constant of a Julia set (default: 0)")
    parser.add_argument("--iterations", type=int, default=500, help="how many steps a point has to escape")
    parser.add_argument("--palette", default="ember", help="a file in the folder palettes (default: ember)")
    parser.add_argument(
        "--size", type=_size, default=os.environ.get("FRACTAL_SIZE") or DEFAULT_SIZE,
        help=f"pixels (default: $FRACTAL_SIZE, or {DEFAULT_SIZE})",
    )  # fmt: skip
    options = parser.parse_args()
    colours = read_palette(options.palette)
    rows, columns = options.size
    shape = rows * SAMPLES, columns * SAMPLES
    times = escape_times(
        options.kind, options.centre, options.width, shape, options.c, options.iterations,
        progress=lambda percent: print(f"{percent} %", flush=True),  # the pilot keeps this in the log of the token
    )  # fmt: skip
    image = Path(os.environ.get("PICAS_RESULTS", "."), "fractal.png")
    image.write_bytes(to_png(paint(times, colours, SAMPLES)))
    print(f"{np.isfinite(times).mean():.1%} of {times.size} points escape")


if __name__ == "__main__":
    main()
