from pathlib import Path

import pytest

from export.errors import ManifestError
from export.manifest import load

TABLE = '[{name}]\ntask = "text-embedding"\nsource = "./weights"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text)
    return path


def test_own_manifest_names_the_default_models() -> None:
    specs = load()
    assert specs["all-minilm-l6-v2"].aliases == ("text-embedding-3-small",)
    assert specs["minilm-late-interaction"].task == "late-interaction"
    assert all(spec.default for spec in specs.values())


def test_relative_source_is_relative_to_the_file(tmp_path: Path) -> None:
    spec = load(write(tmp_path, TABLE.format(name="a")))["a"]
    assert spec.source == str(tmp_path / "weights")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nsource = 'b'", "models.toml [a]: Object missing required field `task`"),
        ("[a]\ntask = 'text-embedding'", "models.toml [a]: Object missing required field `source`"),
        ("[a]\ntask = 'text-embeding'\nsource = 'b'", "Invalid enum value 'text-embeding' - at `$.task`"),
        (TABLE.format(name="a") + "dims = 3", "models.toml [a]: Object contains unknown field `dims`"),
        (TABLE.format(name="a") + "aliases = ['b c']", "at `$.aliases[0]`"),
        (TABLE.format(name="'a b'"), "at `$.name`"),
        ("task = 'text-embedding'", "task is not in a table"),
        ("[a", "models.toml: "),
        (TABLE.format(name="a-v1.5"), 'models.toml [a-v1.5]: a name with a dot goes in quotes: ["a-v1.5"]'),
        (TABLE.format(name="a") + "name = 'b'", "models.toml [a]: Object contains unknown field `name`"),
        (TABLE.format(name="a") + "aliases = ['b']\n" + TABLE.format(name="b"), "'b' is taken 2 times"),
        (
            TABLE.format(name="a") + "default = true\n" + TABLE.format(name="b") + "default = true",
            "2 models of task 'text-embedding' have default = true",
        ),
    ],
)
def test_wrong_manifest_is_one_sentence_with_table_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load(write(tmp_path, text))
    assert message in str(caught.value)


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        load(tmp_path / "models.toml")
