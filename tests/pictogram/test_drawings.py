from pictogram.concepts import Concept
from pictogram.drawings import SIDE, IconSet, render


def concept(code: str, *names: str) -> Concept:
    return Concept(names[0], "objects", code, (), (), names)


CIRCLE = {"body": '<circle cx="8" cy="8" r="8" fill="currentColor"/>'}
SQUARE = {"body": '<rect width="32" height="16" fill="red"/>', "width": 32}
CONCEPTS = [
    concept("1f535", "blue-circle", "disc"),
    concept("1f7e5", "red-square"),
    concept("1f41a", "spiral-shell", "shell"),
]


def found(icons: IconSet, by_code: dict[str, list[str]] | None = None) -> dict[int, str]:
    return dict(icons.match(CONCEPTS, by_code or {}))


def test_icon_is_found_by_its_code_then_by_name() -> None:
    icons = IconSet(
        {"icons": {"whatever": CIRCLE, "red-square": SQUARE}, "width": 16, "height": 16}, {"1f535": "whatever"}
    )
    matched = found(icons)
    assert sorted(matched) == [0, 1]
    assert "circle" in matched[0]
    assert 'viewBox="0 0 32 16"' in matched[1]


def test_icon_is_found_by_what_other_sets_call_its_code() -> None:
    icons = IconSet({"icons": {"conch": CIRCLE}}, {"0": "nothing"})
    assert sorted(found(icons, {"1f41a": ["conch"]})) == [2]


def test_aliases_are_followed_unless_they_turn_the_icon() -> None:
    data = {
        "icons": {"round": CIRCLE},
        "aliases": {"disc": {"parent": "round"}, "shell": {"parent": "round", "hFlip": True}},
    }
    assert sorted(found(IconSet(data, {"0": "nothing"}))) == [0]


def test_set_without_codes_writes_names_without_dashes() -> None:
    assert sorted(found(IconSet({"icons": {"spiralshell": CIRCLE}}, {}), {"1f535": ["spiralshell"]})) == [2]


def test_no_icon_is_given_to_two_concepts() -> None:
    icons = IconSet({"icons": {"round": CIRCLE}}, {"1f535": "round", "1f7e5": "round"})
    assert sorted(found(icons)) == [0]


def test_svg_becomes_pixels_with_alpha() -> None:
    icons = IconSet({"icons": {"blue-circle": CIRCLE}}, {"0": "nothing"})
    pixels = render(found(icons)[0])
    assert (pixels.shape, pixels.dtype.name) == ((SIDE, SIDE, 4), "uint8")
    assert pixels[SIDE // 2, SIDE // 2].tolist() == [0x22, 0x22, 0x22, 255]
    assert pixels[0, 0, 3] == 0
