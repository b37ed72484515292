# ruff: noqa: RUF001 - punctuation of many scripts

import pytest

from gateway.text.sentences import sentences


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    "expected",
    [
        ["A conch is a snail.", "Its shell is blown!", "Is it?", "Yes"],
        ["It costs 3.14 dollars at example.com.", "Good."],
        ["He wrote e.g. this, etc. and so on.", "Then he left."],
        ['"Who is there?"', "asked the snail.", '"A snail."', "(It was.)", "So."],
        ["Wait... what?!", "No…", "Really."],
        ["“Who?”, he said.", "Nobody!"],
        ["貝殻は海の生き物です。", "「そうですか？」", "はい！"],
        ["Раковина.", "Это улитка?", "Да."],
        ["هل هي صدفة؟", "نعم."],
    ],
)
def test_sentences_end_at_their_marks(expected: list[str]) -> None:
    joined = " ".join(expected)
    assert split(joined) == expected
    assert split(f"\n {joined}\t") == expected


def test_japanese_needs_no_space() -> None:
    assert split("貝殻です。「はい。」海。") == ["貝殻です。", "「はい。」", "海。"]


def test_blank_lines_end_paragraphs_and_single_line_breaks_do_not() -> None:
    assert split("A title\n\nA text that\nis wrapped.\r\n\r\nEnd") == ["A title", "A text that\nis wrapped.", "End"]


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_blank_line_ends_a_sentence_whatever_follows(line_break: str) -> None:
    for parts in (["The end.", "lower case"], ["Shopping.", "- milk", "- eggs"], ["What?", ", he said"], ["3.", "14"]):
        assert split((line_break * 2).join(parts)) == parts
        assert split(f"{line_break} {line_break}".join(parts)) == parts
    assert len(split(line_break.join(["The end.", "lower case"]))) == 1


def test_text_without_sentences() -> None:
    assert split("") == split(" \n\n ") == []
    assert split("a conch") == ["a conch"]
    assert split("...") == ["..."]


def test_long_runs_take_linear_time() -> None:
    for run in (".", " ", "\n", "\n ", "!\n", '."', "a.", "\n\t"):
        assert len(split(run * 200_000)) <= 200_000  # quadratic time would be hours
