"""Where windows lie that cover an image and overlap."""


def starts(whole: int, side: int, overlap: float) -> list[int]:
    """Where windows begin along a side: evenly, from one end to the other.

    Args:
      whole: length of the image's side.
      side: of the windows', at most that.
      overlap: of neighbours, at least this share of a side, 0 to below 1.

    Example:
      >>> from mapjax.ops import windows
      >>> windows.starts(100, 40, 0.25)
      [0, 30, 60]
    """
    number = 1 if whole == side else 1 + -(-(whole - side) // max(1, int(side * (1 - overlap))))
    return [round(i * (whole - side) / max(number - 1, 1)) for i in range(number)]
