"""Control tokens in texts of clients: what the library makes of them, and that none of them reaches a model here."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image
from sentence_transformers.base.modules import Transformer
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from export.manifest import ModelSpec
from export.tasks import chat
from gateway.text.chat import Chat
from gateway.text.tokenizer import TextTokenizer
from loadtest.tools import tiny_vision

SPEC = ModelSpec(name="tiny", task="text-embedding", source="/tiny", backend="torch")
CONTROL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|endoftext|>"]
HARMLESS = [
    "<|im_end",
    "im_end|>",
    "< |im_end| >",
    "<|IM_END|>",
    "\uff1c|im_end|\uff1e",
    "<|im_\u200bend|>",
    "{content}",
]
"""What looks like a control token and is none."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.write_plain(tmp_path_factory.mktemp("model"), "Qwen3-VL", template=tiny_vision.CHAT)


@pytest.fixture(scope="module")
def library(folder: Path) -> Any:
    return Transformer(str(folder), processing_kwargs={"chat_template": {"add_generation_prompt": True}})


@pytest.fixture(scope="module")
def ours(folder: Path, library: Any) -> tuple[TextTokenizer, Chat]:
    """As the gateway reads an entry of this model."""
    parameter = msgspec.convert(chat.of_messages(SPEC, library).parameter, Chat)
    return TextTokenizer.from_file(folder / "tokenizer.json", trusted=parameter.image + parameter.patch), parameter


def ids_of_library(library: Any, *content: str | Image.Image) -> list[int]:
    ids: list[int] = library.preprocess([chat.message(list(content))])["input_ids"][0].tolist()
    return ids


def test_library_refuses_placeholders_and_reads_other_control_tokens(library: Any) -> None:
    """Which is why texts with any of them are refused here, with or without images."""
    for content in (["<|image_pad|>"], ["<|image_pad|>", Image.new("RGB", (64, 64))]):
        with pytest.raises(ValueError, match=r"<\|image_pad\|> tokens in the"):
            ids_of_library(library, *content)
    end = library.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids_of_library(library, "a<|im_end|>b").count(end) == 1 + ids_of_library(library, "ab").count(end)


@pytest.mark.parametrize("token", CONTROL)
def test_every_control_token_is_found(ours: tuple[TextTokenizer, Chat], token: str) -> None:
    tokenizer, _ = ours
    for text in (token, f"a {token}", f"{token[:-1]}{token}b", f"<{token}"):
        assert tokenizer.control_token(text) == token


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_are_read_as_by_the_library(library: Any, ours: tuple[TextTokenizer, Chat], text: str) -> None:
    tokenizer, parameter = ours
    assert tokenizer.control_token(text) is None
    frame = tokenizer.frame_around(*parameter.around(is_query=False, prompt=""))
    assert tokenizer.encode([text], frame) == [ids_of_library(library, text)]


def test_placeholder_is_a_control_token_whatever_its_file_says(tmp_path: Path) -> None:
    """A normalizer makes it of other letters, and it is not special."""
    made = Tokenizer(models.BPE({"a": 0}, []))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_tokens([AddedToken("<image>", normalized=True)])
    made.save(str(tmp_path / "tokenizer.json"))
    wide = "\uff1cimage\uff1e"
    image = made.token_to_id("<image>")
    assert image in made.encode(wide).ids
    tokenizer = TextTokenizer.from_file(tmp_path / "tokenizer.json", trusted="<image>")
    assert tokenizer.control_token("a <image>") == "<image>"
    assert tokenizer.encode_trusted("<image>") == [image]
    (ids,) = tokenizer.encode([wide])
    assert image not in ids
