from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sentence_transformers.base.modules import Transformer

from export.errors import SourceError
from export.manifest import ModelSpec
from export.rerankers import PairTemplate
from export.tasks import chat, pair_template
from export.tasks.chat import Chat, ImageText
from export.tasks.images import Seen
from loadtest.tools import tiny_vision
from loadtest.tools.tiny_vision import CHAT, PAIR

IMAGE = ImageText("<|vision_start|>{patches}<|vision_end|>", "<|image_pad|>")
SPEC = ModelSpec(name="tiny", task="text-embedding", source="/tiny", backend="torch")


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One whose chat template tests replace."""
    folder = tiny_vision.write_plain(tmp_path_factory.mktemp("model"), "Qwen2-VL")
    arguments = {"add_generation_prompt": True}
    return Transformer(str(folder), processing_kwargs={"chat_template": arguments})


def of_messages(transformer: Any, template: str) -> Chat:
    transformer.processor.chat_template = template
    return chat.of_messages(SPEC, transformer)


def test_a_template_is_found_with_its_instruction(transformer: Any) -> None:
    found = of_messages(transformer, CHAT)
    assert found.parameter == {
        "text": "<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{content}<|im_end|>\n"
        "<|im_start|>assistant\n",
        "instruction": "Represent the input of the user.",
        "image": IMAGE.image,
        "patch": IMAGE.patch,
    }


def test_a_row_is_rendered_as_the_library_does(transformer: Any) -> None:
    found = of_messages(transformer, CHAT)
    image = Image.new("RGB", (40, 24))
    for instruction in ("", "Find it."):
        features = transformer.preprocess([chat.message(["a {b} ", image, " c", image])], prompt=instruction or None)
        placeholders = IMAGE.patch * (int(features["image_grid_thw"][0].prod()) // 4)
        seen = Seen(np.zeros((0, 48), np.uint8), [], placeholders)
        text = found.render(["a {b} ", seen, " c", seen], instruction)
        assert transformer.tokenizer.encode(text, add_special_tokens=False) == features["input_ids"][0].tolist()


def test_special_tokens_of_the_tokenizer_are_in_the_text(tmp_path: Path) -> None:
    folder = tiny_vision.write_plain(tmp_path, "Qwen3-VL")
    made: Any = Transformer(str(folder))
    assert chat.of_messages(SPEC, made).text.endswith("<|im_end|>\n<|endoftext|>")
    assert chat.bare(made.tokenizer.backend_tokenizer).encode("").ids == []


def test_a_template_may_have_no_place_for_an_instruction(transformer: Any) -> None:
    plain = CHAT.replace("for message in messages", "for message in messages if message.role == 'user'")
    plain = plain.replace("messages[0].role != 'system'", "true")
    assert "{instruction}" not in of_messages(transformer, plain).text


@pytest.mark.parametrize(
    ("replaced", "by"),
    [
        ("part.text -}}", "part.text | trim -}}"),
        ("'<|vision_start|><|image_pad|>", "loop.index ~ '<|vision_start|><|image_pad|>"),
        ("for part in content", "for part in content | sort(attribute='type')"),
        ("'<|vision_start|><|image_pad|><|vision_end|>'", "''"),
        ("'<|vision_start|><|image_pad|><|vision_end|>'", "'<|image_pad|><|image_pad|>'"),
        ("parts(message.content)", "parts(message.content) + parts(message.content)"),
    ],
    ids=["trimmed", "numbered", "sorted", "no image", "two placeholders", "twice"],
)
def test_a_template_that_is_not_fixed_is_refused(transformer: Any, replaced: str, by: str) -> None:
    assert replaced in CHAT
    with pytest.raises(SourceError, match=r"\[tiny\] source: its chat template is not a fixed text around its texts"):
        of_messages(transformer, CHAT.replace(replaced, by))


def test_the_image_of_a_pair_is_found(transformer: Any) -> None:
    transformer.processor.chat_template = PAIR
    assert chat.image_text(SPEC, transformer) == IMAGE
    found = pair_template.of_chat(SPEC, transformer)
    assert isinstance(found, PairTemplate)
    assert found.instructed is not None


def test_a_pair_whose_images_are_not_where_they_were_is_refused(transformer: Any) -> None:
    transformer.processor.chat_template = PAIR.replace(
        "for part in content", "for part in content | sort(attribute='type')"
    )
    with pytest.raises(SourceError, match="is not a fixed text"):
        chat.image_text(SPEC, transformer)
