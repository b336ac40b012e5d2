"""Gradient descent on ||W'W - I||_F, seen from the singular values of W."""

import numpy as np

from simgap.kernels.compiled import kernel


@kernel()
def descend_spectrum(squared, step, steps, scale):
    """How much each singular value has grown after `steps` steps: scale <- scale (1 - 2 step (s^2 - 1) / ||s^2 - 1||), s = scale s_0.

    squared: (B, d) float64, the squared singular values s_0^2 of B matrices, zeros beyond the rank. scale: (B, d) float64 out. One pass
    to a step, in cache: as tensor operations the same loop spends its time between them.
    """
    for b in range(squared.shape[0]):
        for i in range(squared.shape[1]):
            scale[b, i] = 1.0
        for _ in range(steps):
            total = 0.0
            for i in range(squared.shape[1]):
                excess = squared[b, i] * scale[b, i] * scale[b, i] - 1.0
                total += excess * excess
            if total == 0.0:
                break
            pace = 2.0 * step / np.sqrt(total)
            for i in range(squared.shape[1]):
                scale[b, i] *= 1.0 - pace * (squared[b, i] * scale[b, i] * scale[b, i] - 1.0)
