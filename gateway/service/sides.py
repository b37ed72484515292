"""Token ids of the queries and documents of late-interaction models, which read them apart."""

from collections.abc import Sequence

from gateway.catalog import TextModel
from gateway.service import prompts, tokens
from gateway.service.caller import Caller
from gateway.text.tokenizer import PairFrame, Truncate


async def encode_queries(
    caller: Caller,
    model: TextModel,
    queries: Sequence[str],
    places: Sequence[str],
    *,
    truncate: Truncate,
    instruction: str | None = None,
) -> list[list[int]]:
    """Token ids of queries, with their prompt or in their template. Raises the errors of `tokens.encode`."""
    limit = model.max_query_tokens or model.max_tokens // 2
    is_truncated = model.max_query_tokens is not None and truncate != "none"
    if model.chat is None:
        frame, prompt = None, prompts.instruct(model, model.prompts.get("query", ""), instruction)
    else:
        instruction = prompts.choose(model, "query", "query", instruction)
        frame, prompt = await tokens.template_frame(caller, model, instruction, is_query=True), ""
        limit = tokens.room(model, frame, limit, places[0])
    return await tokens.encode(
        caller,
        model,
        [prompt + query for query in queries],
        places,
        limit,
        truncate="end" if is_truncated else "none",
        frame=frame,
    )


async def encode_documents(
    caller: Caller,
    model: TextModel,
    documents: Sequence[str],
    places: Sequence[str],
    limit: int,
    *,
    truncate: Truncate,
) -> list[list[int]]:
    """Token ids of documents, with their prompt or in their template. Raises the errors of `tokens.encode`."""
    frame = await document_frame(caller, model)
    if frame is None:
        prompt = model.prompts.get("document", "")
        prompted = [prompt + document for document in documents]
        return await tokens.encode(caller, model, prompted, places, limit, truncate=truncate)
    limit = tokens.room(model, frame, limit, places[0])
    return await tokens.encode(caller, model, documents, places, limit, truncate=truncate, frame=frame)


async def document_frame(caller: Caller, model: TextModel) -> PairFrame | None:
    """The template of documents; None if the model has none."""
    if model.chat is None:
        return None
    return await tokens.template_frame(caller, model, model.prompts.get("document", ""), is_query=False)
