"""The task: one thumbnail of one crop of one photograph."""

import os
from functools import lru_cache
from pathlib import Path

from msgspec import Struct
from PIL import Image

from cluster import task


class Crop(Struct, frozen=True):
    """What to make: a box of the photograph, as fractions of its size, `width` pixels wide, in a file of its own."""

    photograph: str
    box: tuple[float, float, float, float]
    width: int
    target: str


@lru_cache(maxsize=4)
def _load(photograph: str) -> Image.Image:
    with Image.open(photograph) as image:
        return image.convert("RGB")


@task(timeout="1m")
def thumbnail(crop: Crop) -> tuple[int, int]:
    """Writes the thumbnail and returns its size in pixels.

    It may run again after a crash, so it writes to a name of its own and renames: the file is whole or not there.
    """
    image = _load(crop.photograph)
    left, top, right, bottom = crop.box
    part = image.crop(
        (int(left * image.width), int(top * image.height), int(right * image.width), int(bottom * image.height))
    )
    height = max(1, round(part.height * crop.width / part.width))
    small = part.resize((crop.width, height), Image.Resampling.LANCZOS)
    target = Path(crop.target)
    partial = target.with_name(f"{target.name}.{os.getpid()}")
    small.save(partial, "JPEG", quality=85)
    partial.replace(target)
    return small.size
