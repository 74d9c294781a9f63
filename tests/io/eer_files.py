import numpy as np

from verglas.io.eer import EerEvents


def draw_events(shape, n, seed=0):
    """Events of a raw frame at n different pixels."""
    rng = np.random.default_rng(seed)
    places = rng.choice(shape[0] * shape[1], n, replace=False)
    parts = rng.integers(0, 4, (2, n)).astype(np.uint8)
    return EerEvents(places // shape[1], places % shape[1], parts[0], parts[1])


def count_events(events, shape, upsampling=1):
    """The image that the events make, by adding them one after the other."""
    counts = np.zeros((shape[0] * upsampling, shape[1] * upsampling), np.int64)
    rows = events.rows * upsampling + events.y_parts.astype(int) * upsampling // 4
    columns = events.columns * upsampling + events.x_parts.astype(int) * upsampling // 4
    np.add.at(counts, (rows, columns), 1)
    return counts
