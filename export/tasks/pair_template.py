"""The template in which a model reads a query and a document: its table's, its folder's, or a known one."""

import re
from fnmatch import fnmatchcase
from typing import Any

from sentence_transformers.base.modules import Transformer

from export.errors import SourceError
from export.loading.models import loading
from export.manifest import ModelSpec
from export.rerankers import DOCUMENT, INSTRUCTION, QUERY, RERANKERS, PairTemplate, Reranker, with_default


def known(spec: ModelSpec) -> Reranker | None:
    """The reranker that a table names, or whose name on the hub its source is."""
    if spec.template is not None:
        return RERANKERS.get(spec.template)
    return next(
        (one for one in RERANKERS.values() if any(fnmatchcase(spec.source, pattern) for pattern in one.sources)), None
    )


def choose(spec: ModelSpec, transformer: Transformer, named: Reranker | None, prompt: str) -> PairTemplate | None:
    """The template of a model; None for pairs as the tokenizer has them.

    Args:
        spec: its table, whose own template and instruction come first.
        transformer: whose chat template sentence-transformers would render.
        named: the known reranker that it is.
        prompt: the folder's default one: sentence-transformers has it for the system's message.

    Raises:
        SourceError: the folder's is not of a kind that is understood, or there is no place for the table's instruction.
    """
    if named is not None:
        template = named.template
    elif spec.template is not None:
        has_place = INSTRUCTION in spec.template
        template = with_default(spec.template, "") if has_place else PairTemplate(spec.template)
    elif "message" not in transformer.modality_config:
        return None
    else:
        template = of_chat(spec, transformer, prompt)
    if spec.instruction is not None:
        if template.instructed is None:
            raise SourceError(f"[{spec.name}] instruction: the template does not contain {{instruction}}")
        template = with_default(template.instructed, spec.instruction)
    _check(spec, template)
    return template


def _check(spec: ModelSpec, template: PairTemplate) -> None:
    """Refuse a template in which a place is missing, or there twice, as where an instruction spells one."""
    wanted = [(template.text, [QUERY, DOCUMENT])]
    if template.instructed is not None:
        wanted.append((template.instructed, [INSTRUCTION, QUERY, DOCUMENT]))
    for text, places in wanted:
        found = PLACE.findall(text)
        if sorted(found) != sorted(places) or found.index(QUERY) > found.index(DOCUMENT):
            raise SourceError(
                f"[{spec.name}] template: must contain {' and '.join(places)} once each, the document after the query"
            )


PLACE = re.compile("|".join(map(re.escape, (QUERY, DOCUMENT, INSTRUCTION))))
SENTINELS = ("QUERYzqxj", "DOCUMENTzqxj", "INSTRUCTIONzqxj")
"""Texts that no template contains, and whose case and spaces no template changes."""
PROBE = ("\n a <b> & {c} ", " 'd'\n\n{{ e }} ", " \tf \n")
"""A text that a template must leave unchanged; otherwise every text would have to be changed in the same way."""


def of_chat(spec: ModelSpec, transformer: Transformer, prompt: str = "") -> PairTemplate:
    """The template of pairs that a folder's chat template renders, as sentence-transformers calls it.

    Raises:
        SourceError: it cannot be rendered, or is not a fixed text around its values.
    """
    query, document, instruction = SENTINELS
    with loading(spec):
        if transformer.input_formatter.pair_roles_failure(template_options(transformer)) is not None:
            raise SourceError(
                f"[{spec.name}] template: must be set, since the chat template of the source has no place for a query"
                " and a document"
            )
        text = _render(transformer, query, document, prompt)
        probe = _render(transformer, *PROBE[:2], prompt)
        instructed = _render(transformer, query, document, instruction)
        instructed_probe = _render(transformer, *PROBE)
    takes = all(sentinel in instructed for sentinel in SENTINELS)
    template = PairTemplate(_placed(text), _placed(instructed) if takes else None)
    _check(spec, template)
    _check_verbatim(spec, template.text, probe)
    if template.instructed is not None:
        _check_verbatim(spec, template.instructed, instructed_probe)
    return template


def _check_verbatim(spec: ModelSpec, text: str, probe: str) -> None:
    places = {QUERY: PROBE[0], DOCUMENT: PROBE[1], INSTRUCTION: PROBE[2]}
    if PLACE.sub(lambda place: places[place[0]], text) != probe:
        raise SourceError(
            f"[{spec.name}] template: must be set, since the chat template of the source changes the texts that it is"
            " given"
        )


def _placed(rendered: str) -> str:
    for sentinel, place in zip(SENTINELS, (QUERY, DOCUMENT, INSTRUCTION), strict=True):
        rendered = rendered.replace(sentinel, place)
    return rendered


def template_options(transformer: Transformer) -> dict[str, Any]:
    """The folder's arguments for the chat template, without those about tokens."""
    given = transformer.processing_kwargs.get("chat_template", {})
    sizes = {"padding", "truncation", "max_length", "return_tensors", "restore_suffix"}
    return {name: value for name, value in given.items() if name not in sizes}


def _render(transformer: Transformer, query: str, document: str, prompt: str) -> str:
    """The messages of `Transformer.preprocess`: one for each side, and a system message for the prompt."""
    formatter = transformer.input_formatter
    messages = formatter.pair_to_messages((query, document))
    if prompt:
        (messages,) = formatter.prepend_prompt_to_messages([messages], prompt)
    return str(transformer.processor.apply_chat_template(messages, tokenize=False, **template_options(transformer)))
