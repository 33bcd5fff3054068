"""The viewer's web server: one page and one websocket, on loopback only.

Answers are computed by one thread, because OpenGL and torch serve one page at a time. An answer is
a JSON line followed by the bytes of frames.
"""

import asyncio
import json
import logging
import secrets
import socket
import webbrowser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from cwm.infra.errors import UserError
from cwm.viewer.session import Answer, Session
from envs.errors import EnvError

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
LARGEST = 2**16  # bytes of a message from the page
PROTOCOL = "websockets-sansio"
PAGE = Path(__file__).with_name("page.html")
log = logging.getLogger(__name__)


def application(new_session: Callable[[], Session], port: int) -> Starlette:
    """The web application; every page gets a session of its own."""
    worker = ThreadPoolExecutor(1)
    origins = {f"http://{name}:{port}" for name in NAMES}

    async def page(request: Request) -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}';"
            " connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'"
        )
        text = PAGE.read_text(encoding="utf-8").replace("NONCE", nonce)
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    async def talk(websocket: WebSocket) -> None:
        if websocket.headers.get("origin") not in origins:
            await websocket.close(1008)
            return
        await websocket.accept()
        loop = asyncio.get_running_loop()
        session = await loop.run_in_executor(worker, new_session)
        try:
            await websocket.send_bytes(encoded(Answer({"do": "hello", **session.facts})))
            while (received := await websocket.receive())["type"] == "websocket.receive":
                text = received.get("text") or ""  # a binary message has no text
                reply = await loop.run_in_executor(worker, answer, session, text)
                await websocket.send_bytes(encoded(reply))
        except WebSocketDisconnect:
            log.debug("a page was closed while it was answered")
        finally:
            await loop.run_in_executor(worker, session.close)

    routes = [Route("/", page), WebSocketRoute("/talk", talk)]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[*NAMES])
    return Starlette(routes=routes, middleware=[hosts])


def answer(session: Session, text: str) -> Answer:
    """The session's answer, or the error as an answer."""
    try:
        return session.answer(text)
    except (UserError, EnvError) as error:
        return Answer({"do": "error", "message": str(error)})


def encoded(reply: Answer) -> bytes:
    """The facts as one line of JSON, then the body."""
    return json.dumps(reply.facts).encode() + b"\n" + reply.body


def serve(new_session: Callable[[], Session], port: int, show: bool) -> None:
    """Serve until interrupted; `show` opens a browser. UserError if the port is in use."""
    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise UserError(f"cannot listen on port {port}: {error.strerror}") from None
    port = listener.getsockname()[1]
    address = f"http://{HOST}:{port}"
    log.info("the viewer is at %s; Ctrl-C ends it", address)
    app = application(new_session, port)
    config = uvicorn.Config(app, log_level="warning", ws=PROTOCOL, ws_max_size=LARGEST)
    if show:
        webbrowser.open(address)
    uvicorn.Server(config).run(sockets=[listener])
