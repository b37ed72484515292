"""A model that reads texts and images together, with a small tokenizer, and images for it."""

import base64
from dataclasses import replace

import msgspec
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gateway.catalog import ImageReading, Model, TextModel
from gateway.images.processors import Smart
from gateway.text.chat import Chat
from gateway.text.tokenizer import Template, TemplateTokenizer, TextTokenizer
from gateway.triton import Output
from loadtest.tools.pictures import file, scene

START, END, PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>", START, END, PAD]
CHAT = Chat(
    text="<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{content}<|im_end|>\n",
    query="<|im_start|>Query: {content}<|im_end|>",
    document="<|im_start|>{content}<|im_end|>",
    instruction="Represent the input.",
    image=f"{START}{{patches}}{END}",
    patch=PAD,
)
TEMPLATE = Template("<|im_start|>Query: {query}\nDocument: ", "<|im_end|>", None)
PROCESSOR = Smart(patch=4, merge=2, min_pixels=64, max_pixels=4096)
"""Patches of 48 bytes; an image has 1 to 64 tokens."""


def tokenizer() -> Tokenizer:
    """A byte-pair tokenizer with the special tokens of a vision-language model."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    made.train_from_iterator([" the sea snail lives in the sea", "Represent the input."] * 20, trainer)
    made.decoder = decoders.ByteLevel()
    return made


def text_model(role: str = "text-embedding", **changes: object) -> TextModel:
    """A model of this role; its outputs are recorded as `RecordingTriton` answers."""
    plain = tokenizer()
    is_pair = role == "cross-encoder"
    wrapped = TemplateTokenizer(plain, TEMPLATE, CHAT.image + CHAT.patch) if is_pair else TextTokenizer(plain)
    outputs = {
        "text-embedding": {"embedding": Output("embedding", "FP32", (1,))},
        "cross-encoder": {"score": Output("score", "FP32", (1,))},
        "late-interaction": {
            "score": Output("score", "FP32", (1,)),
            "tokens": Output("tokens", "FP32", (-1, 1)),
            "query_tokens": Output("query_tokens", "FP32", (-1, 1)),
        },
    }[role]
    reading = ImageReading(SPECIAL.index(PAD), PROCESSOR, 4)
    chat = msgspec.structs.replace(CHAT, text="") if role == "late-interaction" else CHAT
    made = TextModel("m", "m", role, outputs, 8, 512, 1000, wrapped, chat=chat, images=reading)
    return replace(made, **changes)  # type: ignore[arg-type]


def public(model: TextModel) -> Model:
    """The public model of a text model."""
    return Model("m", (), default=True, created=0, dimensions=(), text_weight=0.5, text=model)


def image(width: int, height: int, seed: int = 0) -> str:
    """An image as a data: URI."""
    return "data:image/png;base64," + base64.b64encode(file(scene(width, height, seed), "PNG")).decode()
