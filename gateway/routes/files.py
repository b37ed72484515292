"""/v1/files: OpenAI's API of files, for the input and the results of batches."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.errors import InvalidRequest, NoSuchObject, NoSuchRoute, quoted
from gateway.jobs.store import RETENTION_S, Owner, Store, StoredFile, new_id
from gateway.routes import form
from gateway.routes.body import check_encoding, record_ignored
from gateway.routes.http import Request, json_response
from gateway.routes.operation import Operation

PURPOSE = "batch"
FIELDS = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
"""Of a form, besides the file."""
MAX_NAME = 255
"""Characters of a file's name."""
MAX_DIGITS = 18
"""Of a number in a form: Python refuses to read thousands of them."""
MIN_LAST_S = 3600
"""The least that a client may set as the time until a file expires."""
UPLOAD_S = 600.0
"""How long an upload may take."""
JSON_LINES = "application/jsonl"

Content = Annotated[str, Meta(extra_json_schema={"format": "binary"})]
T = TypeVar("T")


class FileUpload(Struct):
    """A form with a file of requests in JSON Lines."""

    file: Content
    """Each line is an object with custom_id, method, url and body."""
    purpose: Literal["batch"]
    expires_after: dict[str, str] | None = None
    """When the file is deleted: `expires_after[anchor]`, which is created_at, and `expires_after[seconds]`. Default:
    after 30 days."""


class FileObject(Struct):
    """A file."""

    id: str
    bytes: int
    """Its size."""
    created_at: int
    """Unix time in seconds."""
    expires_at: int
    """The Unix time after which it is deleted."""
    filename: str
    purpose: str
    """`batch` for uploaded files, `batch_output` for results."""
    object: Literal["file"] = "file"
    status: Literal["processed"] = "processed"


class FileList(Struct):
    """A page of files."""

    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class FileDeleted(Struct):
    """A file that is deleted."""

    id: str
    deleted: bool = True
    object: Literal["file"] = "file"


class FileQuery(Struct):
    """Which files to list."""

    after: str | None = None
    """Only those after the file with this id."""
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    """By the time of creation; the newest first by default."""
    purpose: str | None = None
    """Only files with this purpose."""


def store(request: Request) -> Store:
    """The files and batches of the server.

    Raises:
        NoSuchRoute: they are off.
    """
    found = request.state["gateway"].store
    if found is None:
        raise NoSuchRoute("this server has no batches: its operator can turn them on by GATEWAY_BATCH_FOLDER")
    return found


def owner(request: Request) -> Owner:
    """The files and batches of a request's API key. Raises the errors of `store`."""
    return store(request).owner(request.state["account"].key)


def query(request: Request, kind: type[T]) -> T:
    """The parameters of a request's query; unknown ones are ignored.

    Raises:
        InvalidRequest: one is invalid.
    """
    try:
        return msgspec.convert(dict(request.query_params), kind, strict=False)
    except msgspec.ValidationError as exc:
        message, _, place = str(exc).partition(" - at `$.")
        name = place.rstrip("`")
        raise InvalidRequest(f"{name}: {message}" if name else message, param=name or None) from exc


def page(ids: Sequence[T], key: Callable[[T], str], after: str | None, limit: int, order: str) -> tuple[list[T], bool]:
    """A page of what is sorted, the oldest first, and whether there is more.

    Raises:
        InvalidRequest: nothing has the id `after`.
    """
    ordered = ids[::-1] if order == "desc" else ids
    if after is not None:
        places = {key(one): place for place, one in enumerate(ordered)}
        if after not in places:
            raise InvalidRequest(f"after: there is no {quoted(after)}", param="after")
        ordered = ordered[places[after] + 1 :]
    return [*ordered[:limit]], len(ordered) > limit


async def create(request: Request) -> Response:
    """Answer POST /v1/files."""
    check_encoding(request)
    of_key, limits = owner(request), store(request).limits
    await asyncio.to_thread(of_key.prepare)
    await asyncio.to_thread(of_key.check_number)
    file_id = new_id("file-")
    with form.new_file(of_key.content(file_id)) as content:
        received, size = await form.receive(request, content, limits.file, of_key.room)
        record_ignored(request, {name: name for name in received.fields.keys() - FIELDS})
        file = _file(file_id, received, size)
        await asyncio.to_thread(of_key.add_file, file)
    return json_response(_describe(file))


def _file(file_id: str, received: form.Form, size: int) -> StoredFile:
    """The description of a file, by the fields of its form."""
    if received.fields.get("purpose") != PURPOSE:
        raise InvalidRequest(f"purpose must be {PURPOSE}", param="purpose")
    name = (received.file_name or "")[:MAX_NAME] or f"{file_id}.jsonl"
    now = int(time.time())
    return StoredFile(file_id, name, PURPOSE, size, now, now + _lasts_s(received.fields))


def _lasts_s(fields: dict[str, str]) -> int:
    if "expires_after" in fields:
        raise InvalidRequest("send expires_after[seconds], and no field expires_after", param="expires_after")
    given, anchor = fields.get("expires_after[seconds]"), fields.get("expires_after[anchor]", "created_at")
    if anchor != "created_at":
        raise InvalidRequest("expires_after.anchor must be created_at", param="expires_after")
    is_number = given is not None and given.isdecimal() and len(given) <= MAX_DIGITS
    return check_lasting(int(given) if is_number and given else given, "expires_after.seconds")


def check_lasting(seconds: int | str | None, place: str) -> int:
    """Seconds for which a file is kept; RETENTION_S if there are none.

    Raises:
        InvalidRequest: the number is out of range, or none.
    """
    if seconds is None:
        return RETENTION_S
    if not isinstance(seconds, int) or not MIN_LAST_S <= seconds <= RETENTION_S:
        raise InvalidRequest(f"{place} must be between {MIN_LAST_S} and {RETENTION_S}", param=place)
    return seconds


async def list_files(request: Request) -> Response:
    """Answer GET /v1/files."""
    of_key, wanted = owner(request), query(request, FileQuery)
    files = [file for file in await asyncio.to_thread(of_key.files) if wanted.purpose in (None, file.purpose)]
    found, has_more = page(files, lambda file: file.id, wanted.after, wanted.limit, wanted.order)
    data = [_describe(file) for file in found]
    return json_response(FileList(data, data[0].id if data else None, data[-1].id if data else None, has_more))


async def retrieve(request: Request) -> Response:
    """Answer GET /v1/files/{file_id}."""
    return json_response(_describe(await asyncio.to_thread(owner(request).file, request.path_params["file_id"])))


async def content(request: Request) -> Response:
    """Answer GET /v1/files/{file_id}/content."""
    of_key = owner(request)
    file = await asyncio.to_thread(of_key.file, request.path_params["file_id"])
    try:
        descriptor = await asyncio.to_thread(os.open, of_key.content(file.id), os.O_RDONLY)
    except FileNotFoundError:
        raise NoSuchObject(f"there is no file {quoted(file.id)}") from None
    return Download(descriptor, file.name)


class Download(FileResponse):
    """An open file, which may be deleted meanwhile."""

    def __init__(self, descriptor: int, name: str) -> None:
        """Take a descriptor, and close it in the end."""
        self._descriptor = descriptor
        path = f"/proc/self/fd/{descriptor}"
        super().__init__(path, media_type=JSON_LINES, filename=name, stat_result=os.fstat(descriptor))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._descriptor)


async def delete(request: Request) -> Response:
    """Answer DELETE /v1/files/{file_id}."""
    file_id = request.path_params["file_id"]
    await asyncio.to_thread(owner(request).delete_file, file_id)
    return json_response(FileDeleted(file_id))


def _describe(file: StoredFile) -> FileObject:
    return FileObject(file.id, file.size, file.created_at, file.expires_at, file.name, file.purpose)


OPERATIONS = (
    Operation(
        "post",
        "/v1/files",
        "createFile",
        "Upload a file with requests for a batch",
        create,
        FileObject,
        FileUpload,
        takes="multipart/form-data",
        deadline_s=UPLOAD_S,
    ),
    Operation("get", "/v1/files", "listFiles", "List the files", list_files, FileList, query=FileQuery),
    # First, since an id matches any text.
    Operation(
        "get",
        "/v1/files/{file_id}/content",
        "downloadFile",
        "Download a file",
        content,
        Content,
        gives=JSON_LINES,
    ),
    Operation("get", "/v1/files/{file_id}", "retrieveFile", "Describe a file", retrieve, FileObject),
    Operation("delete", "/v1/files/{file_id}", "deleteFile", "Delete a file", delete, FileDeleted),
)
