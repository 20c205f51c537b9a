"""The WebSocket's door: origin, credential and number of connections are checked before anything is accepted."""

from fastapi import APIRouter
from starlette.websockets import WebSocket

from lamplighter.core.errors import LamplighterError, RequestError
from lamplighter.gateway.auth import Identity
from lamplighter.gateway.chat.ws import MAX_SOCKETS, Socket
from lamplighter.gateway.control.access import check_origin, identify
from lamplighter.gateway.control.errors import as_request_error, response
from lamplighter.gateway.control.parts import parts_of

router = APIRouter()


@router.websocket("/api/ws")
async def socket(websocket: WebSocket) -> None:
    """Live chats and states."""
    parts = parts_of(websocket)
    services = parts.services

    async def check() -> Identity:
        return await identify(services.keyring, websocket)

    try:
        check_origin(websocket, services.config.server.public_url)
        identity = await check()
        if parts.hub.count(identity.principal_id) >= MAX_SOCKETS:
            raise RequestError(
                f"{MAX_SOCKETS} pages are open for you already.",
                status=429, code="too_many_sockets", next_step="Close one.", retry_after=30,
            )  # fmt: skip
    except LamplighterError as error:
        await websocket.send_denial_response(response(as_request_error(error)))
        return
    await websocket.accept()
    await Socket(websocket, identity, check, parts.generations, parts.hub, services.clock).serve()
