from pictogram.concepts import code, collect, slug


def entry(label: str, hexcode: str, group: int | None = 0, **more: object) -> dict[str, object]:
    return {"label": label, "hexcode": hexcode, "group": group, "tags": ["tag"], **more}


GROUPS = {"0": "people-body", "9": "flags"}


def labels(*given: str) -> list[str]:
    entries = [entry(label, f"1F6{i:02X}") for i, label in enumerate(given)]
    return [concept.label for concept in collect(entries, GROUPS, {})]


def test_components_and_what_has_no_group_are_left_out() -> None:
    entries = [entry("red hair", "1F9B0", 2), entry("regional indicator A", "1F1E6", None), entry("fire", "1F525")]
    assert [concept.label for concept in collect(entries, GROUPS, {})] == ["fire"]


def test_one_of_several_genders_is_kept() -> None:
    assert labels("person running", "man running", "woman running") == ["person running"]
    assert labels("man astronaut", "woman astronaut") == ["woman astronaut"]
    assert labels("person running facing right", "family: man, boy", "kiss: woman, man") == []
    assert labels("man", "woman", "man dancing") == ["man", "woman", "man dancing"]


def test_concept_has_all_that_it_is_called() -> None:
    (concept,) = collect(
        [entry("flag: Côte d'Ivoire", "1F1E8-1F1EE", 9)], GROUPS, {"1F1E8-1F1EE": ["ivory_coast", "ci"]}
    )
    assert concept.is_flag
    assert concept.code == "1f1e8-1f1ee"
    assert concept.shortcodes == ("ci", "ivory coast")
    assert concept.icon_names == (
        "flag-cote-divoire",
        "flag-for-cote-divoire",
        "flag-for-flag-cote-divoire",
        "ivory-coast",
    )


def test_second_names_that_two_concepts_have_are_nobodys() -> None:
    codes = {"1F601": ["grin", "beam"], "1F602": ["grin", "joy"], "1F603": ["smile"]}
    entries = [entry("beaming", "1F601"), entry("tears", "1F602"), entry("grin", "1F603")]
    names = [concept.icon_names for concept in collect(entries, GROUPS, codes)]
    assert all("grin" not in found for found in names[:2])
    assert names[2][0] == "grin"


def test_codes_and_slugs_are_those_of_all_sources() -> None:
    assert code("2764-FE0F") == code("2764") == "2764"
    assert slug("woman's hat & “Tōkyō”") == "womans-hat-and-tokyo"
