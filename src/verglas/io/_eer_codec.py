"""Decode and encode electron events, compiled by numba; imported when first used.

A frame is a stream of bits, the lowest bit of a byte first. A code is the number of pixels
without an event before the next one, then the place of the event within its pixel along x
and along y, their highest bit inverted. A run of all ones has no event and goes on in the
next code. The first form of the format (8 bits a run) stores places after such runs, too.

References: Guo et al. 2020, doi:10.1107/S205225252000929X.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["BAD_RUN", "SHORT", "add_events", "encode_events"]

Bytes = NDArray[np.uint8]
Counts = NDArray[np.uint8] | NDArray[np.uint16]

SHORT, BAD_RUN = -1, -2


@njit(nogil=True, cache=True)
def add_events(
    data: Bytes, counts: Counts, zoom: int, bits: NDArray[np.int64], is_wasteful: bool
) -> int:
    """Add the events of one frame to an image, the first line of the file at the last row.

    Args:
        data: the frame's bytes.
        counts: `[h * zoom, w * zoom]`, changed in place.
        zoom: pixels along a side of a detector pixel; a power of 2.
        bits: of the run, of the place along x, and along y.
        is_wasteful: places follow runs without event.

    Returns:
        Number of events; `SHORT` if the bits end before the last pixel, `BAD_RUN` if a run
        leaves the image.
    """
    rows, columns = counts.shape[0], counts.shape[1]
    width = columns // zoom
    total = width * (rows // zoom)
    n_run, n_x, n_y = bits[0], bits[1], bits[2]
    long_run = (1 << n_run) - 1
    mask_x, mask_y = (1 << n_x) - 1, (1 << n_y) - 1
    flip_x, flip_y = (1 << n_x) >> 1, (1 << n_y) >> 1
    place, n_events, at = 0, 0, 0
    buffer, have = np.uint64(0), 0
    line, line_start = 0, 0
    while place < total:
        while have <= 48 and at < data.size:
            buffer |= np.uint64(data[at]) << np.uint64(have)
            at += 1
            have += 8
        if have < n_run:
            return SHORT
        run = int(buffer & np.uint64(long_run))
        buffer >>= np.uint64(n_run)
        have -= n_run
        place += run
        if place > total:
            return BAD_RUN
        if run == long_run:
            if is_wasteful:
                buffer >>= np.uint64(n_x + n_y)
                have = max(have - n_x - n_y, 0)
            continue
        if place == total:
            break
        if have < n_x + n_y:
            return SHORT
        x_part = (np.int64(buffer & np.uint64(mask_x)) ^ flip_x) * zoom >> n_x
        buffer >>= np.uint64(n_x)
        y_part = (np.int64(buffer & np.uint64(mask_y)) ^ flip_y) * zoom >> n_y
        buffer >>= np.uint64(n_y)
        have -= n_x + n_y
        while place >= line_start + width:
            line += 1
            line_start += width
        row = rows - 1 - (line * zoom + y_part)
        counts[row, (place - line_start) * zoom + x_part] += 1
        n_events += 1
        place += 1
    return n_events


@njit(nogil=True, cache=True)
def encode_events(
    places: NDArray[np.int64],
    x_parts: Bytes,
    y_parts: Bytes,
    n_pixels: int,
    bits: NDArray[np.int64],
    is_wasteful: bool,
    out: Bytes,
) -> int:
    """Encode the events of one frame.

    Args:
        places: `[n]`, pixel numbers in the file's order, increasing, each at most once.
        x_parts, y_parts: `[n]`, places within the pixels, in parts of it.
        n_pixels: of the frame.
        bits: of the run, of the place along x, and along y.
        is_wasteful: write places after runs without event.
        out: written from 0; zeros, and long enough.

    Returns:
        Bytes written.
    """
    n_run, n_x, n_y = bits[0], bits[1], bits[2]
    long_run = (1 << n_run) - 1
    flip_x, flip_y = (1 << n_x) >> 1, (1 << n_y) >> 1
    buffer, have, at, before = np.uint64(0), 0, 0, 0
    for i in range(places.size + 1):
        is_end = i == places.size
        run = (n_pixels if is_end else places[i]) - before
        while run >= long_run:
            buffer |= np.uint64(long_run) << np.uint64(have)
            have += n_run + (n_x + n_y if is_wasteful else 0)
            run -= long_run
            while have >= 8:
                out[at] = np.uint8(buffer & np.uint64(255))
                buffer >>= np.uint64(8)
                have -= 8
                at += 1
        code = np.uint64(run)
        if not is_end:
            code |= np.uint64(x_parts[i] ^ flip_x) << np.uint64(n_run)
            code |= np.uint64(y_parts[i] ^ flip_y) << np.uint64(n_run + n_x)
            before = places[i] + 1
        buffer |= code << np.uint64(have)
        have += n_run + n_x + n_y
        while have >= 8:
            out[at] = np.uint8(buffer & np.uint64(255))
            buffer >>= np.uint64(8)
            have -= 8
            at += 1
    if have:
        out[at] = np.uint8(buffer & np.uint64(255))
        at += 1
    return at
