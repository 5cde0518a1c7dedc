"""Tests of colour profiles: what files mean, against littleCMS and against formulas.

The profiles are written here, tag by tag, from published numbers.
"""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from gi_jax import color_profiles, images

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (16, 24, 4), np.uint8)
DEEP = RNG.integers(0, 65536, (16, 24), np.uint16)

SRGB_CURVE = (3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# X, Y, Z of red, green and blue, adapted to D50.
SRGB = [
    (0.43607, 0.22249, 0.01392),
    (0.38515, 0.71687, 0.09708),
    (0.14307, 0.06061, 0.71410),
]
P3 = [
    (0.51512, 0.24120, -0.00105),
    (0.29198, 0.69225, 0.04189),
    (0.15710, 0.06657, 0.78407),
]
ADOBE = [
    (0.60974, 0.31111, 0.01947),
    (0.20528, 0.62567, 0.06087),
    (0.14919, 0.06322, 0.74457),
]
SPACES = {
    "display p3": (P3, SRGB_CURVE),
    "adobe rgb": (ADOBE, (0, 563 / 256)),
    "srgb primaries, linear": (SRGB, (0, 1.0)),
}


def _fixed(*values):
    return struct.pack(f">{len(values)}i", *(round(v * 65536) for v in values))


def _para(kind, *values):
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + _fixed(*values)


def _curv(*entries):
    return b"curv\0\0\0\0" + struct.pack(f">I{len(entries)}H", len(entries), *entries)


def _icc(space, tags, pcs=b"XYZ ", kind=b"mntr"):
    """Returns the bytes of an ICC profile."""
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    size = struct.pack(">I", start + len(data))
    header = size + bytes(4) + b"\x04\x30\0\0" + kind + space + pcs + bytes(12)
    header += b"acsp" + bytes(28) + _fixed(0.9642, 1, 0.8249) + bytes(48)
    return header + table + data


def _rgb_icc(columns, curve):
    tags = {b"wtpt": b"XYZ \0\0\0\0" + _fixed(0.9642, 1, 0.8249)}
    for name, column in zip((b"r", b"g", b"b"), columns):
        tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*column)
        tags[name + b"TRC"] = _para(*curve)
    return _icc(b"RGB ", tags)


def _grey_icc(curve_tag, pcs=b"XYZ "):
    return _icc(b"GRAY", {b"kTRC": curve_tag}, pcs)


def _cmyk_icc():
    """Returns a CMYK profile with a table of Lab: inks that are not the ideal ones."""
    nodes = np.array(np.unravel_index(np.arange(16), (2, 2, 2, 2))).T  # C, M, Y, K.
    light = 95 * (1 - 0.35 * nodes[:, 0]) * (1 - 0.45 * nodes[:, 1])
    light *= (1 - 0.08 * nodes[:, 2]) * (1 - 0.8 * nodes[:, 3])
    ink = 1 - 0.8 * nodes[:, 3]
    a = ink * (-35 * nodes[:, 0] + 70 * nodes[:, 1] - 5 * nodes[:, 2])
    b = ink * (-45 * nodes[:, 0] - 5 * nodes[:, 1] + 85 * nodes[:, 2])
    table = np.stack([light * 2.55, a + 128, b + 128], -1).clip(0, 255).astype(np.uint8)
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut += bytes(range(256)) * 4 + table.tobytes() + bytes(range(256)) * 3
    white = b"XYZ \0\0\0\0" + _fixed(0.9642, 1, 0.8249)
    return _icc(b"CMYK", {b"wtpt": white, b"A2B0": lut}, b"Lab ", b"prtr")


def _to_linear(values, curve):
    kind, gamma, *rest = curve
    if kind == 0:
        return values**gamma
    a, b, c, d = rest
    return np.where(values >= d, (a * values + b) ** gamma, c * values)


def _from_linear(values):
    y = np.clip(values, 0, 1)
    return np.where(y <= 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055)


def _formula(pixels, columns, curve):
    """Returns sRGB values of 8-bit pixels of a space, without littleCMS."""
    linear = _to_linear(pixels / 255, curve)
    to_srgb = np.linalg.inv(np.array(SRGB).T) @ np.array(columns).T
    return _from_linear(linear @ to_srgb.T)


def _littlecms(image, profile, *, exact=False):
    """Converts by littleCMS; `exact` is slow, and needed where there is no matrix."""
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    flags |= ImageCms.Flags.NOOPTIMIZE if exact else 0
    return ImageCms.profileToProfile(
        image,
        io.BytesIO(profile),
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        "RGB",
        flags=flags,
    )


def _load(path, **kwargs):
    """Loads a picture; warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return images.load_image(path, **kwargs)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg", ".avif"])
def test_rgb_profiles(tmp_path, name, suffix):
    profile = _rgb_icc(*SPACES[name])
    path = tmp_path / f"a{suffix}"
    lossless = {"lossless": True} if suffix == ".webp" else {}
    image = Image.fromarray(PIXELS[..., :3])
    image.save(path, icc_profile=profile, quality=100, **lossless)
    stored = images.to_uint8(_load(path, color_management=False))
    assert lossless == {} or (stored == PIXELS[..., :3]).all()
    loaded = images.to_uint8(_load(path))
    expected = np.asarray(_littlecms(Image.fromarray(stored), profile))
    np.testing.assert_array_equal(loaded, expected)
    error = loaded / 255 - _formula(stored, *SPACES[name])
    assert np.abs(error).max() < 1.5 / 255
    assert np.abs(loaded.astype(int) - stored).max() > 20


def test_saturated_display_p3():
    """Known colours: the primaries of sRGB inside of Display P3."""
    pixels = np.array([[234, 51, 35], [117, 251, 76], [0, 0, 245]])
    primaries = _formula(pixels, *SPACES["display p3"])
    np.testing.assert_allclose(primaries, np.eye(3), atol=0.02)


def _with_alpha(kind, profile, path):
    image = Image.fromarray(PIXELS)
    if kind == "LA":
        image = Image.fromarray(PIXELS[..., 2:])
    if kind == "palette":
        image = Image.fromarray(PIXELS[..., :3]).quantize(8)
        image.save(path, icc_profile=profile, transparency=bytes([0, 40, 255, 3]))
    elif kind == "key":
        image = Image.fromarray(PIXELS[..., :3])
        image.save(
            path, icc_profile=profile, transparency=tuple(PIXELS[0, 0, :3].tolist())
        )
    else:
        image.save(path, icc_profile=profile, lossless=True, exact=True)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("RGBA", ".png"),
        ("RGBA", ".webp"),
        ("RGBA", ".tif"),
        ("LA", ".png"),
        ("palette", ".png"),
        ("key", ".png"),
    ],
)
def test_alpha_stays(tmp_path, kind, suffix):
    profile = _rgb_icc(*SPACES["adobe rgb"])
    if kind == "LA":
        profile = _grey_icc(_curv(round(1.8 * 256)))
    _with_alpha(kind, profile, tmp_path / f"a{suffix}")
    stored = _load(tmp_path / f"a{suffix}", color_management=False)
    loaded = _load(tmp_path / f"a{suffix}")
    assert loaded.shape[2] == (2 if kind == "LA" else 4)
    np.testing.assert_array_equal(loaded[..., -1], stored[..., -1])
    assert len(np.unique(stored[..., -1])) > 1
    assert np.abs(loaded - stored)[..., :-1].max() > 0.03
    if kind != "LA":
        expected = _formula(stored[..., :3] * 255, *SPACES["adobe rgb"])
        np.testing.assert_allclose(loaded[..., :3], expected, atol=1.5 / 255)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "I;16"])
@pytest.mark.parametrize("maker", ["littleCMS", "ours"])
def test_a_profile_of_srgb_leaves_every_bit(tmp_path, mode, maker):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if maker == "ours" and mode in ("L", "I;16"):
        levels = np.linspace(0, 1, 1024)
        table = np.round(65535 * _to_linear(levels, SRGB_CURVE)).astype(int)
        profile = _grey_icc(_curv(*table))
    elif maker == "ours":
        profile = _rgb_icc(SRGB, SRGB_CURVE)
    image = Image.fromarray(DEEP if mode == "I;16" else PIXELS).convert(mode)
    image.save(tmp_path / "a.png", icc_profile=profile)
    stored = _load(tmp_path / "a.png", color_management=False)
    np.testing.assert_array_equal(_load(tmp_path / "a.png"), stored)


# A curve of grey as a tag, and as luminance of values in 0..1.
GREY = {
    "gamma 1.8": (_curv(round(1.8 * 256)), lambda v: v ** (461 / 256)),
    "linear": (_curv(), lambda v: v),
    "table": (
        _curv(0, 16384, 65535),
        lambda v: np.interp(v, [0, 0.5, 1], [0, 0.25, 1]),
    ),
    "para 0": (_para(0, 2.6), lambda v: v**2.6),
    "para 1": (_para(1, 2.0, 0.9, 0.1), lambda v: (0.9 * v + 0.1) ** 2),
    "para 2": (
        _para(2, 2.0, 1.25, -0.25, 0.01),
        lambda v: np.maximum(1.25 * v - 0.25, 0) ** 2 + 0.01,
    ),
    "para 3": (_para(*SRGB_CURVE), lambda v: _to_linear(v, SRGB_CURVE)),
    "para 4": (
        _para(4, 2.0, 0.9, 0.1, 0.2, 0.05, 0.0, 0.0),
        lambda v: np.where(v >= 0.05, (0.9 * v + 0.1) ** 2, 0.2 * v),
    ),
}


@pytest.mark.parametrize("curve", GREY)
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_profiles_keep_the_depth(tmp_path, curve, depth, suffix):
    tag, luminance = GREY[curve]
    image = Image.fromarray(DEEP if depth == 16 else PIXELS[..., 0])
    image.save(tmp_path / f"a{suffix}", icc_profile=_grey_icc(tag))
    stored = _load(tmp_path / f"a{suffix}", color_management=False)
    loaded = _load(tmp_path / f"a{suffix}")
    black = luminance(np.zeros(1))
    expected = _from_linear((luminance(stored) - black) / (1 - black))
    np.testing.assert_allclose(loaded, expected, atol=3e-5)
    if depth == 8:
        by_littlecms = np.asarray(_littlecms(image, _grey_icc(tag), exact=True)) / 255
        np.testing.assert_allclose(np.repeat(loaded, 3, 2), by_littlecms, atol=1 / 255)


def test_grey_of_lab_is_lightness(tmp_path):
    Image.fromarray(DEEP).save(
        tmp_path / "a.png", icc_profile=_grey_icc(_curv(), b"Lab ")
    )
    lightness = DEEP / 65535 * 100
    root = (lightness + 16) / 116
    y = np.where(lightness > 8, root**3, lightness * 27 / 24389)
    loaded = _load(tmp_path / "a.png")[..., 0]
    np.testing.assert_allclose(loaded, _from_linear(y), atol=3e-5)


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_pictures_take_rgb_profiles(tmp_path, depth):
    profile = _rgb_icc(*SPACES["adobe rgb"])
    image = Image.fromarray(DEEP if depth == 16 else PIXELS[..., 0])
    image.save(tmp_path / "a.png", icc_profile=profile)
    stored = _load(tmp_path / "a.png", color_management=False)
    expected = _from_linear(stored ** (563 / 256))
    loaded = _load(tmp_path / "a.png")
    assert loaded.shape == (16, 24, 1)
    np.testing.assert_allclose(loaded, expected, atol=3e-5)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_goes_through_its_profile(tmp_path, suffix):
    inks = Image.fromarray(np.kron(PIXELS[:2, :3], np.ones((16, 16, 1), np.uint8)))
    inks = Image.frombytes("CMYK", inks.size, inks.tobytes())
    inks.save(tmp_path / f"a{suffix}", icc_profile=_cmyk_icc(), quality=100)
    with Image.open(tmp_path / f"a{suffix}") as image:
        expected = np.asarray(_littlecms(image, _cmyk_icc(), exact=True))
    loaded = images.to_uint8(_load(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(loaded, expected)
    plain = images.to_uint8(_load(tmp_path / f"a{suffix}", color_management=False))
    assert np.abs(loaded.astype(int) - plain).max() > 30


@pytest.mark.parametrize("color_management", [True, False])
def test_lab_becomes_srgb(tmp_path, color_management):
    lab = np.array([[[50, 20, -30], [80, -20, 40], [0, 0, 0], [100, 0, 0]]])
    stored = np.stack([lab[..., 0] * 2.55, lab[..., 1] % 256, lab[..., 2] % 256], -1)
    Image.frombytes("LAB", (4, 1), np.round(stored).astype(np.uint8).tobytes()).save(
        tmp_path / "a.tif"
    )
    y = (lab[..., 0] + 16) / 116
    root = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = np.where(root > 6 / 29, root**3, (root - 4 / 29) * 108 / 841)
    xyz = xyz * [0.9642, 1, 0.8249]
    expected = _from_linear(xyz @ np.linalg.inv(np.array(SRGB)))
    loaded = _load(tmp_path / "a.tif", color_management=color_management)
    np.testing.assert_allclose(loaded, expected, atol=0.015)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_and_profile_together(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    profile = _rgb_icc(*SPACES["display p3"])
    image = Image.fromarray(PIXELS[..., :3])
    image.save(tmp_path / "a.png", icc_profile=profile, exif=exif)
    stored = _load(tmp_path / "a.png", color_management=False)
    assert stored.shape[:2] == ((16, 24) if orientation < 5 else (24, 16))
    expected = _formula(stored * 255, *SPACES["display p3"])
    np.testing.assert_allclose(_load(tmp_path / "a.png"), expected, atol=1.5 / 255)


_P3 = _rgb_icc(*SPACES["display p3"])
_GREY = _grey_icc(_para(0, 1.8))
BROKEN = {
    "empty": ("RGB", b"\0"),
    "noise": ("RGB", RNG.bytes(600)),
    "header alone": ("RGB", _P3[:128]),
    "cut in its tags": ("RGB", _P3[:200]),
    "without curves": ("RGB", _icc(b"RGB ", {b"wtpt": _para(0, 1.0)})),
    "grey for colours": ("RGB", _GREY),
    "cmyk for colours": ("RGBA", _cmyk_icc()),
    "rgb for cmyk": ("CMYK", _P3),
    "cmyk for grey": ("L", _cmyk_icc()),
    "cmyk for deep grey": ("I;16", _cmyk_icc()),
    "grey without a curve": ("L", _icc(b"GRAY", {b"wtpt": _para(0, 1.0)})),
    "unknown curve": ("L", _grey_icc(b"what" + bytes(12))),
    "unknown para": ("I;16", _grey_icc(_para(9, 1.0))),
    "curve cut": ("L", _grey_icc(b"curv\0\0\0\0" + struct.pack(">I", 4000))),
    "curve of nothing": ("L", _grey_icc(_para(1, 2.0, 0.0, 1.0))),
    "endless curve": ("L", _grey_icc(_para(0, -3.0))),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_profiles_warn_and_are_srgb(tmp_path, name):
    mode, profile = BROKEN[name]
    image = Image.fromarray(DEEP if mode == "I;16" else PIXELS).convert(mode)
    path = tmp_path / "a.tif"
    image.save(path, icc_profile=profile)
    stored = _load(path, color_management=False)
    with pytest.warns(UserWarning, match=r"a\.tif: .*; the colours are taken as sRGB"):
        loaded = images.load_image(path)
    np.testing.assert_array_equal(loaded, stored)


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", _P3),
        ("CMYK", _cmyk_icc()),
        ("L", _P3),
        ("L", _GREY),
        *(("L", _grey_icc(tag, b"Lab ")) for tag, _ in GREY.values()),
    ],
)
def test_spoilt_profiles_are_applied_or_refused(mode, profile):
    rng = np.random.default_rng(1)
    levels = np.arange(256, dtype=np.uint8)
    image = Image.fromarray(PIXELS[:4, :4]).convert(mode)
    outcomes = set()
    for _ in range(100):
        spoilt = bytearray(profile)
        for place in rng.integers(0, min(len(profile), 600), rng.integers(1, 6)):
            spoilt[place] = rng.integers(256)
        try:
            if mode == "L":
                grey = color_profiles.grey_to_srgb(levels, bytes(spoilt))
                assert grey.dtype == np.float32
                assert grey.min() >= 0 and grey.max() <= 1  # Not NaN either.
            else:
                assert color_profiles.to_srgb(image, bytes(spoilt)).mode == "RGB"
            outcomes.add("applied")
        except color_profiles.ProfileError:
            outcomes.add("refused")
    assert outcomes == {"applied", "refused"}


def test_warnings_of_profiles_can_be_errors(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=b"nonsense")
    with pytest.raises(UserWarning, match=r"a\.png"):
        _load(tmp_path / "a.png")
