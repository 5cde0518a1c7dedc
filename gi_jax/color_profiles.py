"""Colour profiles: from the colours that a picture file means to sRGB.

A file says what its numbers mean by an ICC profile, or, as a PNG, by chunks of its own.
Those chunks are turned into an ICC profile here, so that there is one way to sRGB:
littleCMS, relative colorimetric with black-point compensation, as in browsers. Grey
goes through the profile's curve instead, since littleCMS behind Pillow has 8 bits.
"""

import io
import struct
from collections.abc import Sequence
from typing import IO, Any, Final

import numpy as np
from PIL import Image, ImageCms

# White of the connection space of profiles, X, Y, Z.
_D50: Final = (0.9642, 1.0, 0.8249)
_BRADFORD: Final = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)

# Parametric curves of ICC, section 10.18: type and parameters.
_Curve = tuple[int, Sequence[float]]
_SRGB_CURVE: Final = (3, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
_BT709_CURVE: Final = (3, (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081))

# Chromaticities x, y of white, red, green and blue.
_D65: Final = (0.3127, 0.3290)
_SRGB_PRIMARIES: Final = (_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))

# Code points of ITU-T H.273, which the chunk cICP holds, to what profiles can say. PQ
# and HLG (16, 18) are missing: they are brighter than white and need tone mapping.
_PRIMARIES: Final = {
    1: _SRGB_PRIMARIES,
    5: (_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (_D65, (0.63, 0.34), (0.31, 0.595), (0.155, 0.07)),
    9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_TRANSFERS: Final[dict[int, _Curve]] = {
    1: _BT709_CURVE,
    4: (0, (2.2,)),
    5: (0, (2.8,)),
    6: _BT709_CURVE,
    8: (0, (1.0,)),
    13: _SRGB_CURVE,
    14: _BT709_CURVE,
    15: _BT709_CURVE,
}

# A gAMA within this of 1/2.2 stands for the curve of sRGB: programs write it beside
# sRGB pixels. The bound is that of libpng.
_GAMMA_TOLERANCE: Final = 0.05

# Profiles that move no colour by more than this many levels of 8 bits are sRGB's own,
# as in Skia; the pixels then stay as they are.
_SAME: Final = 1

# The brightest black that black-point compensation takes for black: L* = 50.
_BLACK_LIMIT: Final = 0.1842


class ProfileError(ValueError):
    """A colour profile is broken, or for other channels, or of a kind not read."""


def profile_of(image: Image.Image, file: IO[bytes]) -> bytes | None:
    """Returns the ICC profile of a picture file; one is made of the chunks of a PNG.

    The first of these that a PNG has counts: cICP, iCCP, sRGB, gAMA with or without
    cHRM. A cHRM alone is not used.

    Args:
      image: the picture, as Pillow opened it.
      file: its file, which can be sought and is left at another place.

    Returns:
      The bytes of the profile, or None for sRGB.

    Raises:
      ProfileError: where the profile is known to be broken, or not one that is read.
    """
    info = image.info
    cicp = _cicp(file) if image.format == "PNG" else None
    if cicp is not None:
        primaries, transfer, matrix, full_range = cicp
        if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
            raise ProfileError(f"colours {primaries}/{transfer} of cICP are not read")
        if (matrix, full_range) != (0, 1):
            raise ProfileError("cICP does not say full-range RGB")
        return rgb_profile(_PRIMARIES[primaries], _TRANSFERS[transfer])
    if "icc_profile" in info:
        if not info["icc_profile"]:  # Pillow found pieces that do not fit together.
            raise ProfileError("the colour profile is broken")
        return info["icc_profile"]
    if "srgb" in info or "gamma" not in info:
        return None
    gamma = info["gamma"]
    if not gamma > 0:
        raise ProfileError(f"gAMA is {gamma}, not above 0")
    curve: _Curve = (0, (1 / gamma,))
    if abs(2.2 * gamma - 1) < _GAMMA_TOLERANCE:
        curve = _SRGB_CURVE
    if (xy := info.get("chromaticity")) is None:
        return rgb_profile(_SRGB_PRIMARIES, curve)
    return rgb_profile(list(zip(xy[::2], xy[1::2])), curve)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Converts the colours of a picture to sRGB, 8 bits; alpha stays as it is.

    Args:
      image: in mode RGB, RGBA, CMYK or LAB.
      profile: ICC profile; None for sRGB. LAB needs none and takes none.

    Returns:
      The picture in mode RGB or RGBA.

    Raises:
      ProfileError: where the profile is broken or is for other channels.
    """
    mode = image.mode if image.mode in ("RGB", "RGBA") else "RGB"
    if image.mode == "LAB":
        return _transform(ImageCms.createProfile("LAB"), "LAB", "RGB").apply(image)
    if profile is None:
        return image.convert(mode)
    opened = _opened(profile)
    is_matrix = all(_tag(profile, name) is None for name in (b"A2B0", b"A2B1"))
    transform = _transform(opened, image.mode, mode, is_matrix=is_matrix)
    if mode == image.mode:
        probe = _probe().convert(mode)
        change = np.asarray(transform.apply(probe), int) - np.asarray(probe, int)
        if np.abs(change).max() <= _SAME:
            return image
    return transform.apply(image)


def grey_to_srgb(levels: np.ndarray, profile: bytes | None) -> np.ndarray:
    """Converts grey of 8 or 16 bits to the grey of sRGB, without rounding.

    An RGB profile is taken too, as cameras and converters leave it in grey pictures:
    its green curve says how bright a level is.

    Args:
      levels: uint8 or uint16, any shape.
      profile: ICC profile of grey or RGB; None for sRGB.

    Returns:
      float32 in 0..1, same shape.

    Raises:
      ProfileError: where the profile is broken or is for other channels.
    """
    top = np.iinfo(levels.dtype).max
    values = np.arange(top + 1) / top
    table = values if profile is None else _grey_through(profile, values)
    if np.abs(table - values).max() <= _SAME / 255:
        table = values
    return table.astype(np.float32)[levels]


def rgb_profile(primaries: Sequence[Sequence[float]], curve: _Curve) -> bytes:
    """Returns an ICC profile of RGB with one curve for all channels.

    Args:
      primaries: chromaticities x, y of white, red, green and blue.
      curve: type and parameters of a parametric curve of ICC, section 10.18.

    Raises:
      ProfileError: where the primaries span no colours.
    """
    x, y = np.array(primaries, np.float64).T
    if len(x) != 4 or not y.min() > 0:
        raise ProfileError("chromaticities without a colour")
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    white, columns = xyz[:, 0], xyz[:, 1:]
    cones = _BRADFORD @ white
    if abs(np.linalg.det(columns)) < 1e-6 or cones.min() <= 0:
        raise ProfileError("chromaticities without a colour")
    columns = columns * np.linalg.solve(columns, white)
    scale = np.diag(_BRADFORD @ _D50 / cones)
    columns = np.linalg.solve(_BRADFORD, scale @ _BRADFORD @ columns)
    kind, parameters = curve
    curve_tag = struct.pack(">4s4xHxx", b"para", kind) + _fixed(parameters)
    tags = {b"wtpt": struct.pack(">4s4x", b"XYZ ") + _fixed(_D50)}
    for name, column in zip((b"r", b"g", b"b"), columns.T):
        tags[name + b"XYZ"] = struct.pack(">4s4x", b"XYZ ") + _fixed(column)
        tags[name + b"TRC"] = curve_tag
    start = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, start + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    form = ">I4xI4s4s4s12x4s28x12s48x"  # The header, section 7.2; version 4.3.
    names = (0x04300000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return struct.pack(form, start + len(data), *names, _fixed(_D50)) + table + data


def _fixed(values: Sequence[float] | np.ndarray) -> bytes:
    """Returns numbers as s15Fixed16, section 4.6."""
    integers = [round(float(value) * 65536) for value in values]
    if any(abs(integer) >= 2**31 for integer in integers):
        raise ProfileError("chromaticities without a colour")
    return struct.pack(f">{len(integers)}i", *integers)


def _cicp(file: IO[bytes]) -> tuple[int, ...] | None:
    """Returns the four numbers of a PNG's chunk cICP, which Pillow skips."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"cICP" and length == 4:
            return tuple(file.read(4))
        if kind in (b"IDAT", b"IEND"):
            break
        file.seek(length + 4, io.SEEK_CUR)
    return None


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except ImportError as error:
        raise ProfileError("Pillow was built without littleCMS") from error
    except (OSError, TypeError, ValueError) as error:
        raise ProfileError("the colour profile is broken") from error


def _transform(
    source: Any, source_mode: str, mode: str, *, is_matrix: bool = False
) -> ImageCms.ImageCmsTransform:
    """Returns the conversion from a profile, in one of Pillow's modes, to sRGB.

    What littleCMS calls optimization is exact for a matrix and takes a tenth of the
    time. Everything else it samples on a coarse grid, which moves dark colours by up
    to 16 levels.
    """
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    if not is_matrix:
        flags |= ImageCms.Flags.NOOPTIMIZE
    try:
        return ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            source_mode,
            mode,
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags,
        )
    except ImageCms.PyCMSError as error:
        raise ProfileError(
            f"the colour profile is broken, or not for {source_mode}"
        ) from error


def _probe() -> Image.Image:
    """Returns a picture of colours from all over the cube, and of all greys."""
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)
    return Image.fromarray(np.concatenate([cube, greys])[None])


def _grey_through(profile: bytes, values: np.ndarray) -> np.ndarray:
    """Returns the grey of sRGB, 0..1, that grey values of a profile mean."""
    opened = _opened(profile)
    space = profile[16:20]
    if space not in (b"GRAY", b"RGB "):
        raise ProfileError("the colour profile is broken, or not for grey")
    curve = _tag(profile, b"kTRC" if space == b"GRAY" else b"gTRC")
    if curve is not None:
        return _grey_of(_luminance(profile, curve, values))
    # A table instead of a curve: littleCMS reads it, at 8 bits.
    mode = "L" if space == b"GRAY" else "RGB"
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None]).convert(mode)
    grey = _transform(opened, mode, "RGB").apply(ramp).convert("L")
    return np.interp(values, np.arange(256) / 255, np.asarray(grey)[0] / 255)


def _tag(profile: bytes, name: bytes) -> bytes | None:
    """Returns the data of a tag of a profile that littleCMS could open."""
    (count,) = struct.unpack_from(">I", profile, 128)
    for index in range(min(count, (len(profile) - 132) // 12)):
        key, start, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        if key == name:
            return profile[start : start + size]
    return None


def _luminance(profile: bytes, curve: bytes, values: np.ndarray) -> np.ndarray:
    """Returns the luminance Y of grey values, with that of 0 moved to 0."""
    with np.errstate(all="ignore"):
        brightness = _evaluated(curve, np.append(0.0, values))
    if not np.isfinite(brightness).all():
        raise ProfileError("the colour profile is broken")
    if profile[16:24] == b"GRAYLab ":  # The curve gives L* / 100.
        root = (100 * brightness + 16) / 116
        brightness = np.where(root > 6 / 29, root**3, (root - 4 / 29) * 108 / 841)
    black = np.clip(brightness[0], 0, _BLACK_LIMIT)
    return (brightness[1:] - black) / (1 - black)


def _evaluated(curve: bytes, x: np.ndarray) -> np.ndarray:
    """Evaluates a curve of ICC, sections 10.6 and 10.18, at values in 0..1."""
    try:
        if curve[:4] == b"curv":
            (count,) = struct.unpack_from(">I", curve, 8)
            table = np.array(struct.unpack_from(f">{count}H", curve, 12), np.float64)
            if count == 0:
                return x
            if count == 1:
                return x ** (table[0] / 256)
            return np.interp(x, np.linspace(0, 1, count), table / 65535)
        if curve[:4] == b"para":
            (kind,) = struct.unpack_from(">H", curve, 8)
            count = (1, 3, 4, 5, 7)[kind]
            values = [v / 65536 for v in struct.unpack_from(f">{count}i", curve, 12)]
            return _parametric(kind, values, x)
    except (struct.error, IndexError, ZeroDivisionError, MemoryError) as error:
        raise ProfileError("the colour profile is broken") from error
    raise ProfileError("the colour profile is broken")


def _parametric(kind: int, values: list[float], x: np.ndarray) -> np.ndarray:
    """Evaluates (a x + b)^g + e where x >= d, and c x + f below."""
    g, a, b = [*values, 1.0, 0.0][:3] if kind == 0 else values[:3]
    c = d = e = f = 0.0
    if kind in (1, 2):
        d = -b / a
        e = f = values[3] if kind == 2 else 0.0
    elif kind >= 3:
        c, d = values[3:5]
        e, f = values[5:] if kind == 4 else (0.0, 0.0)
    power = np.maximum(a * x + b, 0) ** g + e
    return np.where(x >= d, power, c * x + f)


def _grey_of(luminance: np.ndarray) -> np.ndarray:
    """Returns the value 0..1 of sRGB that has a luminance."""
    y = np.clip(luminance, 0, 1)
    return np.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055)
