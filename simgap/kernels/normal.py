"""Normal numbers from raw random words, at the speed of one pass over memory."""

import math

import numpy as np
from numba import njit

LOG_LOW, LOG_HIGH = np.float32(-2.12194440e-4), np.float32(0.693359375)  # ln 2 in two parts: the high one times an exponent is exact
SQRT_HALF_BITS = np.int32(0x3F3504F3)
MANTISSA_BITS = np.int32(23)
UNIT = np.float32(2.0**-23)
EIGHTH_TURN = np.float32(math.pi / 4 * 2.0**-31)


@njit(nogil=True, cache=True, fastmath={"contract"})
def box_muller(words, out, std):
    """out[i], out[h + i] = std sqrt(-2 ln u) (cos a, sin a), with u from words[i] and a from words[h + i], h = len(out) / 2.

    words: (2 h,) uint32, independent and uniform. out: (2 h,) float32. u takes the 2^23 values (j + 1/2) 2^-23, each exact in float32; half
    a turn of a is as likely as none, so the law is exactly symmetric about 0, and |out| <= 5.8 std: beyond lies 8e-9 of a normal's mass.
    The polynomials for ln, sin and cos are the single-precision ones of the Cephes library (S. L. Moshier), good to 2 units in the last
    place, written out so that the loop vectorises.
    """
    half = out.size // 2
    for i in range(half):
        u = (np.float32(np.int32(words[i] >> np.uint32(9))) + np.float32(0.5)) * UNIT
        bits = np.float32(u).view(np.int32)
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

        # The two top bits choose the quadrant, the others an angle within an eighth of a turn of its axis.
        word = words[half + i]
        quadrant = word >> np.uint32(30)
        a = np.float32(np.int32(word << np.uint32(2))) * EIGHTH_TURN
        a2 = a * a
        sine = ((np.float32(-1.9515295891e-4) * a2 + np.float32(8.3321608736e-3)) * a2 - np.float32(1.6666654611e-1)) * a2 * a + a
        cosine = (np.float32(2.443315711809948e-5) * a2 - np.float32(1.388731625493765e-3)) * a2 + np.float32(4.166664568298827e-2)
        cosine = cosine * a2 * a2 - np.float32(0.5) * a2 + np.float32(1.0)
        odd = (quadrant & np.uint32(1)) != 0
        sign = np.float32(1.0) - np.float32(quadrant & np.uint32(2))
        out[i] = radius * sign * (sine if odd else cosine)
        out[half + i] = radius * sign * (cosine if odd else sine)
