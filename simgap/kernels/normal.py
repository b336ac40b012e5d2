"""Normal numbers from uniform ones, at the speed of one pass over memory."""

import math

import numpy as np

from simgap.kernels.compiled import kernel

# Uniform numbers taken apart at a time, in three arrays that stay in the nearest cache.
BLOCK = 2048
# Normal numbers made at a time: their uniform numbers stay in cache. Part of the order in which a stream is used.
NORMALS_AT_ONCE = 1 << 16
LOG_LOW, LOG_HIGH = np.float32(-2.12194440e-4), np.float32(0.693359375)  # ln 2 in two parts: the high one times an exponent is exact
SQRT_HALF_BITS = np.int32(0x3F3504F3)
MANTISSA_BITS = np.int32(23)
QUARTER_TURN = math.pi / 2


@kernel()
def box_muller(uniform, out, std):
    """out[i], out[h + i] = std sqrt(-2 ln u) (cos a, sin a), both u and a from the 53 bits of uniform[i], h = len(uniform).

    uniform: (h,) float64, multiples of 2^-53 in [0, 1). out: (2 h,) float32, or one shorter. The 23 high bits j give u = (j + 1/2) 2^-23,
    exact in float32; the 30 low bits give a quadrant and an angle within an eighth of a turn of its axis. Half a turn is as likely as none,
    so the law is exactly symmetric about 0, and |out| <= 5.8 std: beyond lies 8e-9 of a normal's mass.
    """
    half = uniform.size
    u, angle, quadrant = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    last = np.empty(1, np.float32)
    for start in range(0, half, BLOCK):
        stop = min(start + BLOCK, half)
        _take_apart(uniform[start:stop], u, angle, quadrant)
        paired = min(stop, out.size - half) - start
        _turn(u, angle, quadrant, std, out[start : start + paired], out[half + start : half + start + paired])
        if start + paired < stop:
            _turn(u[paired:], angle[paired:], quadrant[paired:], std, out[start + paired : stop], last)


@kernel()
def fill_normals(seeds, out, std):
    """Each row of `out` from its own SFC64 stream: N(0, std^2), the bits that `fill_normal` would draw from numpy's generator.

    seeds: (S, 3) uint64, the words that seed numpy's SFC64. out: (S, m) float32. A generator called from Python holds the interpreter's
    lock for each of a layer's thousands of small streams; here they are one call. The algorithm is numpy's (SFC64 by C. Doty-Humphrey,
    seeded with a counter of 1 and 12 rounds; random() takes the 53 high bits), and numpy's own generator is its test.
    """
    size = out.shape[1]
    uniform = np.empty((min(size, NORMALS_AT_ONCE) + 1) // 2)
    for row in range(out.shape[0]):
        a, b, c, counter = seeds[row, 0], seeds[row, 1], seeds[row, 2], np.uint64(1)
        for _ in range(12):
            _, a, b, c, counter = _next_word(a, b, c, counter)
        for start in range(0, size, NORMALS_AT_ONCE):
            piece = out[row, start : start + NORMALS_AT_ONCE]
            half = (piece.size + 1) // 2
            for i in range(half):
                word, a, b, c, counter = _next_word(a, b, c, counter)
                uniform[i] = (word >> np.uint64(11)) * (1.0 / 9007199254740992.0)
            box_muller(uniform[:half], piece, std)


@kernel()
def _next_word(a, b, c, counter):
    """One step of SFC64: the word it gives, and the state after it."""
    word = a + b + counter
    mixed = ((c << np.uint64(24)) | (c >> np.uint64(40))) + word
    return word, b ^ (b >> np.uint64(11)), c + (c << np.uint64(3)), mixed, counter + np.uint64(1)


@kernel(fastmath={"contract"})
def _take_apart(uniform, u, angle, quadrant):
    """float64 in, float32 out: a loop of its own, because one loop over both widths runs at half the speed."""
    for i in range(uniform.size):
        scaled = uniform[i] * 8388608.0
        high = np.floor(scaled)
        u[i] = np.float32((high + 0.5) / 8388608.0)
        turn = (scaled - high) * 4.0
        whole = np.floor(turn)
        quadrant[i] = np.int32(whole)
        angle[i] = np.float32((turn - whole - 0.5) * QUARTER_TURN)


@kernel(fastmath={"contract"})
def _turn(u, angle, quadrant, std, first, second):
    """first, second = std sqrt(-2 ln u) (cos, sin) of the angle in its quadrant, mirrored in the odd ones.

    The polynomials for ln, sin and cos are the single-precision ones of the Cephes library (S. L. Moshier), good to 2 units in the last
    place, written out so that the loop vectorises.
    """
    for i in range(first.size):
        bits = np.float32(u[i]).view(np.int32)
        exponent = (bits - SQRT_HALF_BITS) >> MANTISSA_BITS
        m = np.int32(bits - (exponent << MANTISSA_BITS)).view(np.float32) - np.float32(1.0)
        m2 = m * m
        p = np.float32(7.0376836292e-2)
        p = p * m + np.float32(-1.1514610310e-1)
        p = p * m + np.float32(1.1676998740e-1)
        p = p * m + np.float32(-1.2420140846e-1)
        p = p * m + np.float32(1.4249322787e-1)
        p = p * m + np.float32(-1.6668057665e-1)
        p = p * m + np.float32(2.0000714765e-1)
        p = p * m + np.float32(-2.4999993993e-1)
        p = p * m + np.float32(3.3333331174e-1)
        e = np.float32(exponent)
        log = (m + (p * m * m2 + e * LOG_LOW - np.float32(0.5) * m2)) + e * LOG_HIGH
        radius = std * np.sqrt(np.float32(-2.0) * log)

        a = angle[i]
        a2 = a * a
        sine = ((np.float32(-1.9515295891e-4) * a2 + np.float32(8.3321608736e-3)) * a2 - np.float32(1.6666654611e-1)) * a2 * a + a
        cosine = (np.float32(2.443315711809948e-5) * a2 - np.float32(1.388731625493765e-3)) * a2 + np.float32(4.166664568298827e-2)
        cosine = cosine * a2 * a2 - np.float32(0.5) * a2 + np.float32(1.0)
        odd = (quadrant[i] & np.int32(1)) != 0
        sign = np.float32(1.0) - np.float32(quadrant[i] & np.int32(2))
        first[i] = radius * sign * (sine if odd else cosine)
        second[i] = radius * sign * (cosine if odd else sine)
