"""ClipSpec: what a backbone may ask for."""

import json
from dataclasses import replace

import pytest

from models.spec import ClipSpec

SPEC = ClipSpec(
    frames=4,
    rate=8.0,
    height=96,
    width=128,
    fit="stretch",
    mean=(0.45, 0.45, 0.45),
    std=(0.25, 0.25, 0.25),
    feature_width=64,
)


def test_a_clip_covers_frames_over_rate() -> None:
    """Four frames at eight a second are half a second."""
    assert SPEC.clip_seconds == 0.5


def test_json_and_back_is_the_same() -> None:
    """to_dict is plain JSON, and from_dict its inverse."""
    assert ClipSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frames", 0),
        ("frames", 4.0),
        ("frames", True),
        ("height", -1),
        ("rate", 0.0),
        ("rate", float("nan")),
        ("fit", "squeeze"),
        ("mean", (0.5, 0.5)),
        ("std", (0.5, 0.5, 0.0)),
        ("feature_width", 0),
    ],
)
def test_impossible_values_are_named(field: str, value: object) -> None:
    """A field that no backbone can have is refused by name."""
    with pytest.raises(ValueError, match=field):
        replace(SPEC, **{field: value})


def test_missing_and_unknown_fields_are_named() -> None:
    """from_dict neither guesses nor ignores."""
    values = SPEC.to_dict()
    with pytest.raises(ValueError, match="unknown colour"):
        ClipSpec.from_dict(values | {"colour": "blue"})
    del values["rate"]
    with pytest.raises(ValueError, match="missing rate"):
        ClipSpec.from_dict(values)
