"""What every descent asks of its arguments."""


def check_descent(strength: float, steps: int, rate: float) -> None:
    """ValueError unless strength >= 0, rate > 0 and steps >= 0; a NaN is none of these."""
    if not strength >= 0 or not rate > 0 or steps < 0:
        raise ValueError(f"strength, rate, steps: expected >= 0, > 0 and >= 0, got {strength!r}, {rate!r}, {steps!r}")
