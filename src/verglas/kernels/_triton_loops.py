"""The loops behind `_triton_poses.py`, which gives them their grids.

They are the loops of `_numba_slices.py` and `_numba_pose_likelihood.py`: one program for each
pose, a block of coefficients at a time, everything about a coefficient in registers. Half
volumes are read and written as floats, real and imaginary parts in turn. Insertion adds
atomically, so the order of additions, and with it the last digit, differs from run to run.
"""

import triton
import triton.language as tl

__all__ = ["extract", "insert", "normals", "scores"]


@triton.jit
def _cell(kx, ky, rotation, padding, row, plane, centre):
    """Return the sign that mirrors a point to x >= 0, its cell's place, and where it lies in it."""
    x = (kx * tl.load(rotation) + ky * tl.load(rotation + 3)) * padding
    y = (kx * tl.load(rotation + 1) + ky * tl.load(rotation + 4)) * padding
    z = (kx * tl.load(rotation + 2) + ky * tl.load(rotation + 5)) * padding
    sign = tl.where(x < 0, -1.0, 1.0)
    x, y, z = x * sign, y * sign + centre, z * sign + centre
    x0, y0, z0 = x.to(tl.int32), y.to(tl.int32), z.to(tl.int32)
    place = z0.to(tl.int64) * plane + y0 * row + x0
    return sign, place, x - x0, y - y0, z - z0


@triton.jit
def _between(volume, place, row, plane, fx, fy, fz, mask):
    """Return the trilinear interpolant of one part and its slopes along x, y, z."""
    low, up = volume + 2 * place, volume + 2 * (place + plane)
    v00 = tl.load(low, mask, 0.0)
    v10 = tl.load(low + 2 * row, mask, 0.0)
    v01 = tl.load(up, mask, 0.0)
    v11 = tl.load(up + 2 * row, mask, 0.0)
    d00 = tl.load(low + 2, mask, 0.0) - v00
    d10 = tl.load(low + 2 * row + 2, mask, 0.0) - v10
    d01 = tl.load(up + 2, mask, 0.0) - v01
    d11 = tl.load(up + 2 * row + 2, mask, 0.0) - v11
    c00, c10, c01, c11 = v00 + fx * d00, v10 + fx * d10, v01 + fx * d01, v11 + fx * d11
    e0, e1 = c10 - c00, c11 - c01
    c0 = c00 + fy * e0
    gz = c01 + fy * e1 - c0
    f0, f1 = d00 + fy * (d10 - d00), d01 + fy * (d11 - d01)
    return c0 + fz * gz, f0 + fz * (f1 - f0), e0 + fz * (e1 - e0), gz


@triton.jit
def _shifted(signal, shift, k, kx, ky, box, mask):
    """Return coefficients of a view with the phase of its shift."""
    sx, sy = tl.load(shift).to(tl.float32), tl.load(shift + 1).to(tl.float32)
    cycles = (kx * sx + ky * sy) / box
    angle = -6.283185307179586 * (cycles - tl.floor(cycles + 0.5))
    cosine, sine = tl.cos(angle), tl.sin(angle)
    re, im = tl.load(signal + 2 * k, mask, 0.0), tl.load(signal + 2 * k + 1, mask, 0.0)
    return re * cosine - im * sine, re * sine + im * cosine


@triton.jit
def extract(
    volume, rotations, frequencies, out, n_k, row, plane, centre, padding, BLOCK: tl.constexpr
):
    pose = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = k < n_k
    kx, ky = tl.load(frequencies + 2 * k, mask, 0.0), tl.load(frequencies + 2 * k + 1, mask, 0.0)
    sign, place, fx, fy, fz = _cell(kx, ky, rotations + 9 * pose, padding, row, plane, centre)
    re, _, _, _ = _between(volume, place, row, plane, fx, fy, fz, mask)
    im, _, _, _ = _between(volume + 1, place, row, plane, fx, fy, fz, mask)
    tl.store(out + 2 * (pose * n_k + k), re, mask)
    tl.store(out + 2 * (pose * n_k + k) + 1, sign * im, mask)


@triton.jit
def scores(
    volume,
    signal,
    weight,
    rotations,
    shifts,
    frequencies,
    out,
    n_poses,
    n_k,
    box,
    row,
    plane,
    centre,
    padding,
    BLOCK: tl.constexpr,
):
    pose = tl.program_id(0).to(tl.int64)
    view = pose // n_poses
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, n_k, BLOCK):
        k = first + tl.arange(0, BLOCK)
        mask = k < n_k
        kx = tl.load(frequencies + 2 * k, mask, 0.0)
        ky = tl.load(frequencies + 2 * k + 1, mask, 0.0)
        sign, place, fx, fy, fz = _cell(kx, ky, rotations + 9 * pose, padding, row, plane, centre)
        re, _, _, _ = _between(volume, place, row, plane, fx, fy, fz, mask)
        im, _, _, _ = _between(volume + 1, place, row, plane, fx, fy, fz, mask)
        sr, si = _shifted(signal + 2 * view * n_k, shifts + 2 * pose, k, kx, ky, box, mask)
        w = tl.load(weight + view * n_k + k, mask, 0.0)
        # im has the other sign in the mirrored half, and counts squared or with it
        total += re * sr + sign * im * si - 0.5 * w * (re * re + im * im)
    tl.store(out + pose, tl.sum(total.to(tl.float64), 0))


@triton.jit
def _normal_terms(re, im, slope_re, slope_im, rotation, padding, sign, u, v, sr, si, w, cycle):
    """Return what coefficients add to score, gradient and lower triangle of the normal matrix."""
    ax, ay, az = slope_re
    bx, by, bz = slope_im
    m00, m01, m02 = tl.load(rotation), tl.load(rotation + 1), tl.load(rotation + 2)
    m10, m11, m12 = tl.load(rotation + 3), tl.load(rotation + 4), tl.load(rotation + 5)
    m20, m21, m22 = tl.load(rotation + 6), tl.load(rotation + 7), tl.load(rotation + 8)
    im *= sign
    # slopes along the beam and by a turn in the plane; k -> -k and conjugation turn signs
    nr = sign * padding * (m20 * ax + m21 * ay + m22 * az)
    ni = padding * (m20 * bx + m21 * by + m22 * bz)
    tx, ty, tz = v * m00 - u * m10, v * m01 - u * m11, v * m02 - u * m12
    tr = sign * padding * (tx * ax + ty * ay + tz * az)
    ti = padding * (tx * bx + ty * by + tz * bz)
    square = re * re + im * im
    er, ei = sr - w * re, si - w * im
    # rotation vector: columns (-ky gz, kx gz, ky gx - kx gy); shift: 2 pi i k P
    along = nr * er + ni * ei
    turn = cycle * (re * si - im * sr)
    wn = w * (nr * nr + ni * ni)
    wnt = w * (nr * tr + ni * ti)
    wp = w * cycle * cycle * square
    wnp = w * cycle * (re * ni - im * nr)
    wtp = w * cycle * (re * ti - im * tr)
    return (
        re * sr + im * si - 0.5 * w * square,
        -v * along,
        u * along,
        tr * er + ti * ei,
        u * turn,
        v * turn,
        v * v * wn,
        -u * v * wn,
        u * u * wn,
        -v * wnt,
        u * wnt,
        w * (tr * tr + ti * ti),
        -u * v * wnp,
        u * u * wnp,
        u * wtp,
        u * u * wp,
        -v * v * wnp,
        u * v * wnp,
        v * wtp,
        u * v * wp,
        v * v * wp,
    )


@triton.jit
def normals(
    volume,
    signal,
    weight,
    rotations,
    shifts,
    frequencies,
    out,
    n_k,
    box,
    row,
    plane,
    centre,
    padding,
    BLOCK: tl.constexpr,
):
    view = tl.program_id(0).to(tl.int64)
    rotation = rotations + 9 * view
    cycle = 6.283185307179586 / box
    zero = tl.zeros([BLOCK], tl.float32)
    total, g0, g1, g2, g3, g4 = zero, zero, zero, zero, zero, zero
    h00, h01, h11, h02, h12 = zero, zero, zero, zero, zero
    h22, h03, h13, h23, h33 = zero, zero, zero, zero, zero
    h04, h14, h24, h34, h44 = zero, zero, zero, zero, zero
    for first in range(0, n_k, BLOCK):
        k = first + tl.arange(0, BLOCK)
        mask = k < n_k
        u = tl.load(frequencies + 2 * k, mask, 0.0)
        v = tl.load(frequencies + 2 * k + 1, mask, 0.0)
        sign, place, fx, fy, fz = _cell(u, v, rotation, padding, row, plane, centre)
        re, ax, ay, az = _between(volume, place, row, plane, fx, fy, fz, mask)
        im, bx, by, bz = _between(volume + 1, place, row, plane, fx, fy, fz, mask)
        sr, si = _shifted(signal + 2 * view * n_k, shifts + 2 * view, k, u, v, box, mask)
        w = tl.load(weight + view * n_k + k, mask, 0.0)
        t = _normal_terms(
            re, im, (ax, ay, az), (bx, by, bz), rotation, padding, sign, u, v, sr, si, w, cycle
        )
        total += t[0]
        g0 += t[1]
        g1 += t[2]
        g2 += t[3]
        g3 += t[4]
        g4 += t[5]
        h00 += t[6]
        h01 += t[7]
        h11 += t[8]
        h02 += t[9]
        h12 += t[10]
        h22 += t[11]
        h03 += t[12]
        h13 += t[13]
        h23 += t[14]
        h33 += t[15]
        h04 += t[16]
        h14 += t[17]
        h24 += t[18]
        h34 += t[19]
        h44 += t[20]
    sums = out + 21 * view
    _store(sums + 0, total)
    _store(sums + 1, g0)
    _store(sums + 2, g1)
    _store(sums + 3, g2)
    _store(sums + 4, g3)
    _store(sums + 5, g4)
    _store(sums + 6, h00)
    _store(sums + 7, h01)
    _store(sums + 8, h11)
    _store(sums + 9, h02)
    _store(sums + 10, h12)
    _store(sums + 11, h22)
    _store(sums + 12, h03)
    _store(sums + 13, h13)
    _store(sums + 14, h23)
    _store(sums + 15, h33)
    _store(sums + 16, h04)
    _store(sums + 17, h14)
    _store(sums + 18, h24)
    _store(sums + 19, h34)
    _store(sums + 20, h44)


@triton.jit
def _store(place, values):
    tl.store(place, tl.sum(values.to(tl.float64), 0))


@triton.jit
def insert(
    signal,
    weight,
    rotations,
    shifts,
    probability,
    frequencies,
    numerator,
    denominator,
    n_poses,
    n_k,
    box,
    row,
    plane,
    centre,
    padding,
    BLOCK: tl.constexpr,
):
    pose = tl.program_id(0).to(tl.int64)
    view = pose // n_poses
    p = tl.load(probability + pose)
    if p > 0:
        k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        mask = k < n_k
        kx = tl.load(frequencies + 2 * k, mask, 0.0)
        ky = tl.load(frequencies + 2 * k + 1, mask, 0.0)
        sign, place, fx, fy, fz = _cell(kx, ky, rotations + 9 * pose, padding, row, plane, centre)
        sr, si = _shifted(signal + 2 * view * n_k, shifts + 2 * pose, k, kx, ky, box, mask)
        sr, si = p * sr, sign * p * si
        w = p * tl.load(weight + view * n_k + k, mask, 0.0)
        for corner in tl.static_range(8):
            dx, dy, dz = corner % 2, (corner // 2) % 2, corner // 4
            part = fx if dx else 1 - fx
            part *= fy if dy else 1 - fy
            part *= fz if dz else 1 - fz
            at = place + dx + dy * row + dz * plane
            tl.atomic_add(numerator + 2 * at, part * sr, mask)
            tl.atomic_add(numerator + 2 * at + 1, part * si, mask)
            tl.atomic_add(denominator + at, part * w, mask)
