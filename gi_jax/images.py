"""Picture files: load, save, 8-bit rounding, and files that are whole or not there.

Writing goes through imageio. Reading goes through Pillow itself: imageio, a layer above
it, turns palette pictures with an EXIF orientation the wrong way, and drops their
transparency.
"""

import contextlib
import errno
import os
import secrets
import stat
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final, NamedTuple

import imageio.v3 as iio
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageOps

from gi_jax.color_profiles import ProfileError, grey_to_srgb, profile_of, to_srgb
from gi_jax.interruption import removed_if_interrupted

# Larger pictures are refused by default: float32 RGB of so many pixels is a gibibyte.
MAX_PIXELS: Final = 2**30 // (4 * 3)

# Held while the limit of Pillow, one for the process, is another.
_LIMIT_LOCK: Final = threading.Lock()

_TIFF_STARTS: Final = (b"II*\0", b"MM\0*", b"II+\0")  # BigTIFF has the +.
_BIG_ENDIAN_BIG_TIFF: Final = b"MM\0+"
_SAMPLE_FORMAT: Final = 339  # The tag, and its values that Pillow reads rightly.
_UNSIGNED: Final = frozenset({1, 4})
_DEPTH: Final = (
    "8 or 16 bits per channel, unsigned: of other pixels no rule says which value is "
    "white; encode or fit them as an array, scaled to 0..1"
)


class _RefusedError(ValueError):
    """A picture is not taken, whole or not; the message lacks the file's name."""


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


def load_image(
    path: str | os.PathLike[str],
    *,
    color_management: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Reads a picture: PNG, JPEG, WebP, AVIF, JPEG 2000, TIFF, BMP, PPM or GIF.

    **Colours** become those of sRGB, as browsers show them: ICC profiles are applied by
    relative colorimetric intent with black-point compensation, for RGB, CMYK and grey;
    so are the chunks cICP, gAMA and cHRM of PNG. Pixels stay exactly as they are where
    a profile is that of sRGB within one level of 8 bits. A profile that is broken or
    for other channels gives a warning, and the values are taken as sRGB. Not read: PQ
    and HLG of PNG (with a warning), colours that AVIF, JPEG 2000 or BMP hold in other
    ways than an ICC profile that Pillow gives, and Exif's mark of Adobe RGB. CMYK
    without a profile is converted by Pillow's plain formula.

    **Depth**: 16-bit grey keeps its 16 bits, through profiles too; of 16-bit colour
    Pillow reads the upper 8, and colours of 8 bits are rounded to 8 bits again when
    converted. Float, signed and 32-bit pixels are refused, since no rule says which
    value is white; they can be encoded or fitted as an array, scaled to 0..1.

    **Several pictures in one file**: the first frame of an animation (of an animated
    PNG its default picture), the first page of a TIFF, the main picture of MPO and of
    Ultra-HDR JPEG, whose gain map is not applied. The EXIF orientation is applied.

    Args:
      path: the file.
      color_management: False takes the values of the file, without profile or chunks.
      max_pixels: larger pictures are refused before they are decoded. Above the default
        it also lifts, while the picture is read, the limit that Pillow has for the
        whole process.

    Returns:
      [H, W, C] float32 in 0..1: C is 1 for grey (1-bit too), 3 for colour (palette,
      CMYK and Lab too), one more where there is transparency.

    Raises:
      ValueError: where it is no whole picture of a known format, or has more than
        max_pixels pixels.
      OSError: where the file is missing (FileNotFoundError), may not be read
        (PermissionError), or reading fails.
      MemoryError: where the picture does not fit.
    """
    if max_pixels < 1:
        raise ValueError(f"max_pixels: expected at least 1, got {max_pixels}")
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path}: expected a picture file, got a folder or device")
    with (
        path.open("rb") as file,
        _errors_named(path, file, max_pixels),
        _pillow_limit(max_pixels),
        Image.open(file, formats=_READABLE) as image,
    ):
        width, height = image.size
        if width * height > max_pixels:
            raise _RefusedError(f"{_too_large(max_pixels)}, got {width}x{height}")
        ImageOps.exif_transpose(image, in_place=True)
        _scale_key(image, file)
        if color_management:
            try:
                return _to_array(image, profile_of(image, file))
            except ProfileError as error:
                message = f"{path}: {error}; the colours are taken as sRGB"
                warnings.warn(message, stacklevel=2)
        return _to_array(image, None)


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


@contextlib.contextmanager
def _errors_named(path: Path, file: IO[bytes], max_pixels: int) -> Iterator[None]:
    """Makes ValueErrors that name the file of what Pillow raises on broken files."""
    try:
        yield
    except _RefusedError as error:
        raise ValueError(f"{path}: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path}: {_too_large(max_pixels)}: {error}") from None
    except (MemoryError, Warning):
        raise
    except Image.UnidentifiedImageError:
        file.seek(0)
        start = file.read(4)
        known = f"a picture file ({', '.join(_READABLE)})"
        if start == _BIG_ENDIAN_BIG_TIFF:
            known = "another TIFF: Pillow reads no BigTIFF of big-endian order"
        elif start in _TIFF_STARTS:
            known = f"a whole TIFF of {_DEPTH}"
        raise ValueError(f"{path}: expected {known}") from None
    except Exception as error:  # Pillow's decoders raise anything on broken files.
        _check_readable(path, file)
        raise ValueError(f"{path}: expected a whole picture: {error}") from error


def _check_readable(path: Path, file: IO[bytes]) -> None:
    """Raises OSError where a file cannot be read to its end.

    After a decoder failed this tells errors of reading from errors of content, which
    decoders mix up: on the first, some raise SystemError, and libtiff has a number.
    """
    try:
        file.seek(0)
        while file.read(2**20):
            pass
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _too_large(max_pixels: int) -> str:
    return (
        f"expected a picture of at most {max_pixels} pixels (load_image takes more "
        "with a larger max_pixels)"
    )


@contextlib.contextmanager
def _pillow_limit(max_pixels: int) -> Iterator[None]:
    """Lifts the limit on pixels that Pillow has for the process, if asked for more."""
    if max_pixels <= MAX_PIXELS:
        yield
        return
    with _LIMIT_LOCK:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = before and max(before, max_pixels)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _scale_key(image: Image.Image, file: IO[bytes]) -> None:
    """Brings the transparent colour of a PNG to 8 bits, as Pillow does the pixels.

    Pillow leaves it at the depth of the file, where no pixel equals it.
    """
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None:
        return
    file.seek(24)
    (depth,) = file.read(1)
    if image.mode in ("1", "L"):
        image.info["transparency"] = min(key * 255 // (2**depth - 1), 255)
    elif image.mode == "RGB" and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _to_array(image: Image.Image, profile: bytes | None) -> np.ndarray:
    """Returns a picture in any of Pillow's modes as [H, W, C] in 0..1.

    Args:
      image: the picture.
      profile: ICC profile to convert to sRGB from; None for none.

    Raises:
      ProfileError: where the profile cannot be applied.
      ValueError: where pixels have neither 8 nor 16 bits.
    """
    sample_formats = getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, 1)
    if not {*np.ravel(sample_formats)} <= _UNSIGNED:
        raise _RefusedError(f"signed or float pixels are not {_DEPTH}")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        levels = np.asarray(image).astype(np.uint16)[:, :, None]
        grey = grey_to_srgb(levels, profile)
        key = image.info.get("transparency")
        return grey if key is None else np.concatenate([grey, levels != key], -1)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise _RefusedError(f"pixels of mode {image.mode} are not {_DEPTH}")
    alpha = "A" if image.has_transparency_data else ""
    if image.mode in ("1", "L", "LA", "La"):
        levels = np.asarray(image.convert("L" + alpha))
        levels = levels.reshape(*levels.shape[:2], -1)
        grey = grey_to_srgb(levels[:, :, :1], profile)
        return np.concatenate([grey, levels[:, :, 1:] / np.float32(255)], -1)
    if image.mode not in ("CMYK", "LAB"):
        image = image.convert("RGB" + alpha)
    return np.asarray(to_srgb(image, profile), np.float32) / 255
