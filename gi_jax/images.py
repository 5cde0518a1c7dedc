"""Picture files: load, save, 8-bit rounding, and files that are whole or not there.

Writing goes through imageio. Reading goes through Pillow itself: imageio, a layer above
it, turns palette pictures with an EXIF orientation the wrong way, and drops their
transparency.
"""

import contextlib
import errno
import os
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import imageio.v3 as iio
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageOps

from gi_jax.interruption import removed_if_interrupted

# Pictures with more pixels are refused: float32 RGB of this many takes a gibibyte.
MAX_PIXELS: Final = 2**30 // (4 * 3)


class _Format(NamedTuple):
    name: str  # Pillow's
    channels: tuple[int, ...]  # numbers of channels that `save_image` writes
    options: Mapping[str, Any] = MappingProxyType({})  # for Pillow's writer


_JPEG = _Format("JPEG", (1, 3), {"quality": 95, "subsampling": 0})
_TIFF = _Format("TIFF", (1, 2, 3, 4))
_FORMATS: Final = {
    ".png": _Format("PNG", (1, 2, 3, 4)),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _Format("WEBP", (3, 4), {"lossless": True, "exact": True}),
    ".avif": _Format("AVIF", (3, 4), {"quality": 100, "subsampling": "4:4:4"}),
    ".jp2": _Format("JPEG2000", (1, 2, 3, 4)),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": _Format("BMP", (1, 3)),
    ".ppm": _Format("PPM", (3,)),
    ".pgm": _Format("PPM", (1,)),
    ".gif": _Format("GIF", ()),
}

# Suffixes of the files that `load_image` reads; it goes by content, not by these.
SUFFIXES: Final = tuple(_FORMATS)
# Suffixes of those that `save_image` writes.
WRITABLE_SUFFIXES: Final = tuple(s for s, form in _FORMATS.items() if form.channels)
_READABLE: Final = tuple(dict.fromkeys(format.name for format in _FORMATS.values()))


def load_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a picture: PNG, JPEG, WebP, AVIF, JPEG 2000, TIFF, BMP, PPM or GIF.

    Values are those of the file; colour profiles and gamma are not applied, the EXIF
    orientation is. 16-bit grey keeps its 16 bits; of 16-bit colour Pillow reads the
    upper 8. A file with several frames gives the first.

    Args:
      path: the file.

    Returns:
      [H, W, C] float32 in 0..1: C is 1 for grey (1-bit too), 3 for colour (palette and
      CMYK too), one more where there is transparency.

    Raises:
      FileNotFoundError: where there is no such file.
      ValueError: where it is no whole picture of a known format, or has more than
        MAX_PIXELS pixels.
      OSError: where the file may not be read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not path.is_file():
        raise ValueError(f"{path}: expected a picture file, got a folder or device")
    with path.open("rb") as file, warnings.catch_warnings():
        # About its own limit on pixels, and about oddities in metadata.
        warnings.simplefilter("ignore")
        try:
            with Image.open(file, formats=_READABLE) as image:
                _check_size(image.size)
                ImageOps.exif_transpose(image, in_place=True)
                return _to_array(image)
        except Image.UnidentifiedImageError:
            known = ", ".join(_READABLE)
            raise ValueError(f"{path}: expected a picture file ({known})") from None
        except Exception as error:  # Pillow's decoders raise anything on broken files.
            raise ValueError(f"{path}: expected a whole picture: {error}") from error


def save_image(
    path: str | os.PathLike[str], image: ArrayLike, *, replace: bool = True
) -> None:
    """Writes a picture of 8 bits per channel, in the format that the suffix names.

    Lossless where the format can be; JPEG and AVIF at high quality. The file appears
    whole or not at all.

    Args:
      path: the file.
      image: [H, W, C] uint8, or float in 0..1 that `to_uint8` rounds; C is 1 for grey,
        2 grey and alpha, 3 RGB, 4 RGBA.
      replace: whether a file that exists is replaced.

    Raises:
      ValueError: on other shapes, types or suffixes, and where the format does not have
        that many channels.
      OSError: where the file may not be written.
    """
    suffix = Path(path).suffix.lower()
    pixels = to_uint8(image)
    if pixels.ndim != 3 or 0 in pixels.shape or pixels.shape[2] > 4:
        raise ValueError(f"expected [H, W, C] with C in 1..4, got {list(pixels.shape)}")
    channels = pixels.shape[2]
    suffixes = [s for s, format in _FORMATS.items() if channels in format.channels]
    if suffix not in suffixes:
        raise ValueError(
            f"{path}: for {channels} channels expected a name that ends in "
            f"{', '.join(suffixes)}"
        )
    pixels = pixels[:, :, 0] if channels == 1 else pixels
    options = _FORMATS[suffix].options
    try:
        data = iio.imwrite(
            "<bytes>", pixels, extension=suffix, plugin="pillow", **options
        )
    except (OSError, ValueError) as error:  # A side too long for the format.
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise ValueError(f"{path}: {size} pixels cannot be written: {error}") from error
    atomic_write(path, data, replace=replace)


def to_uint8(image: ArrayLike) -> np.ndarray:
    """Rounds a picture to 8 bits: ⌊255 x + ½⌋ of x clipped to 0..1; NaN gives 0.

    Args:
      image: float, any shape; uint8 is returned as it is.

    Returns:
      uint8, same shape.

    Raises:
      ValueError: on other types.
    """
    values = np.asarray(image)
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"expected a float or uint8 picture, got {values.dtype}")
    values = values.astype(np.promote_types(values.dtype, np.float32))
    clipped = np.clip(np.nan_to_num(values, nan=0.0), 0, 1)
    return np.floor(clipped * 255 + 0.5).astype(np.uint8)


def atomic_write(
    path: str | os.PathLike[str], data: bytes, *, replace: bool = True
) -> None:
    """Writes a file that appears whole or not at all.

    The bytes go to a temporary name in the same folder, which is then renamed; on any
    failure, Ctrl-C included, it is removed. The mode is that of any new file, by the
    umask. Errors name `path`, never the temporary file.

    Args:
      path: the file, in a folder that exists.
      data: its content.
      replace: whether a file that exists is replaced.

    Raises:
      FileExistsError: where the file exists and is not to be replaced.
      OSError: where the file may not be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "No such folder", str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    with removed_if_interrupted(temporary):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not replace and _link(temporary, path):
                temporary.unlink()
            else:
                os.replace(temporary, path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):  # Of this file, not of a temporary one.
                raise OSError(error.errno, error.strerror, str(path)) from error
            raise


def _link(source: Path, path: Path) -> bool:
    """Gives a file a second name that is new; False where the file system cannot."""
    try:
        os.link(source, path)
    except FileExistsError:
        raise
    except OSError:  # No hard links: a look has to do, though it is a moment old.
        if path.exists():
            raise FileExistsError(
                errno.EEXIST, os.strerror(errno.EEXIST), str(path)
            ) from None
        return False
    return True


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels, over the limit of {MAX_PIXELS}")


def _to_array(image: Image.Image) -> np.ndarray:
    """Returns the values of a picture in any of Pillow's modes, [H, W, C] in 0..1."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return np.asarray(image, np.float32)[:, :, None] / 65535
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ValueError(f"mode {image.mode}, not 8 or 16 bits per channel")
    alpha = "A" if image.has_transparency_data else ""
    mode = ("L" if image.mode in ("1", "L", "LA", "La") else "RGB") + alpha
    values = np.asarray(image.convert(mode), np.float32) / 255
    return values.reshape(*values.shape[:2], -1)
