"""Tests of what the command does with colour profiles."""

import numpy as np
import pytest
from PIL import Image

from gi_jax.command.flags import parse
from gi_jax.command.main import main
from tests.color_profiles_test import _P3, PIXELS, _load


@pytest.mark.parametrize("flags", [[], ["--ignore_profiles"]])
def test_the_command_can_leave_colours_alone(tmp_path, monkeypatch, flags):
    import gi_jax as gi

    seen = []

    def encode(image, **settings):
        seen.append(image)
        raise ValueError("no need to go on")

    monkeypatch.setattr(gi, "encode", encode)
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=_P3)
    main(parse(["gi", "encode", str(tmp_path / "a.png"), *flags]))
    expected = _load(tmp_path / "a.png", color_management=not flags)
    np.testing.assert_array_equal(seen, [expected])


def test_the_command_says_what_a_warning_says(tmp_path, monkeypatch, capsys):
    import gi_jax as gi

    monkeypatch.setattr(gi, "encode", lambda image, **settings: b"")
    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=b"no profile" * 20)
    main(parse(["gi", "encode", str(tmp_path / "a.png")]))
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith(f"gi: warning: {tmp_path / 'a.png'}: the colour profile is")
