"""Sends requests to an ASGI app in this process: the requests of batches take the code path of all others."""

import asyncio

from starlette.types import ASGIApp, Message, Scope

from gateway.routes.http import Gateway
from gateway.scheduling.turns import Account
from gateway.telemetry.record import RequestRecord


class Reply:
    """A response, as the app sends it."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self.is_json = False

    async def send(self, message: Message) -> None:
        """Take a message of the app."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.is_json = any(
                name == b"content-type" and value.startswith(b"application/json") for name, value in message["headers"]
            )
        else:
            self.body += message.get("body", b"")


async def post(app: ASGIApp, gateway: Gateway, record: RequestRecord, body: bytes, account: Account) -> Reply:
    """Send a POST request with a JSON body. The client of this request never disconnects.

    Args:
        app: gets the state that middleware sets otherwise: the record and the account.
        gateway: the state of the app.
        record: has the path.
        body: of the request.
        account: whose turns the request takes.
    """
    reply = Reply()
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await asyncio.get_running_loop().create_future()

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": record.path,
        "raw_path": record.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        "server": None,
        "client": None,
        "state": {"gateway": gateway, "record": record, "account": account},
    }
    try:
        await app(scope, receive, reply.send)
    except Exception:
        # Starlette has sent a 500 and re-raises for uvicorn to log, but the error is logged already.
        if not reply.status:
            raise
    return reply
