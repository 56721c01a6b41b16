"""The trace explorer served from a store: ``factscale ui report STUDY``. It reads, and never writes.

By default it is reached from this machine only, and answers to this machine's names only, so that no page of another site
can read it through a name that it controls. The store is opened for each page and closed again: a running study is not
held up, and where it holds the store the page says so and loads itself again.
"""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eval.explorer import (
    RETRY_SECONDS,
    SCRIPT,
    STYLE_SHEET,
    render_list,
    render_message,
    render_question,
    render_student,
    script,
    style_sheet,
)
from eval.explorer_views import LIST, QUESTION, STUDENT, Filters, Frame
from store.connection import Store
from store.home import Home
from store.types import InputError, RunError
from tasks.exploring import Explorer

LOCK_SECONDS = 2.0  # a page waits so long for a store that is being written
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")

_EXPLORER_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
# A drawn page holds its style and script, and a policy of its own that is at least as strict. Other files run nothing.
_PAGE_POLICY = (
    "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def serve_explorer(
    home: Home,
    study_key: str,
    report_folder: Path,
    host: str = "127.0.0.1",
    port: int = 8787,
    *,
    name: str = "",
    on_start: Callable[[str], None] = print,
) -> None:
    """Serve the explorer of a study, and its drawn report where there is one, until Ctrl-C or SIGTERM.

    ``name`` is the study's name for people (default: its name in the store); ``on_start`` is given the address. Port 0: any
    that is free. Raises InputError for a study that has not landed, and for a host or port that cannot be listened on.
    """
    app = explorer_app(home, study_key, report_folder, host, name=name)
    server, listening = _server(app, host, port)
    with listening, _ended_by_signals(server):
        on_start(_address(host, listening))
        server.run(sockets=[listening])


@contextmanager
def running_explorer(home: Home, study_key: str, report_folder: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """The same in a thread of this process, on a free port; yields the address."""
    server, listening = _server(explorer_app(home, study_key, report_folder, host), host, 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="explorer")
    thread.start()
    try:
        yield _address(host, listening)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def explorer_app(
    home: Home, study_key: str, report_folder: Path, host: str = "127.0.0.1", *, name: str = ""
) -> Starlette:
    """The application. ``host`` is what it will listen on: on loopback only loopback names are answered.

    Raises InputError if the study is not in the store.
    """
    store = home.existing().open_store(LOCK_SECONDS)
    found = home.store.query("SELECT name FROM studies WHERE study_key = ?", [study_key])
    if not found:
        raise InputError(f"the study {name or study_key} has not landed in {store.name}: run it first")
    pages = _Pages(store, study_key, name or found[0]["name"], report_folder)
    middleware = [Middleware(_SecurityHeaders)]
    if _is_loopback(host):
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(_LOOPBACK_NAMES), www_redirect=False))
    return Starlette(
        routes=[
            Route(LIST, pages.questions),
            Route(QUESTION + "{key}", pages.question),
            Route(STUDENT + "{key}", pages.student),
            Route(STYLE_SHEET, _text(style_sheet(), "text/css")),
            Route(SCRIPT, _text(script(), "text/javascript")),
            Route("/{path:path}", pages.report),
        ],
        middleware=middleware,
        exception_handlers={
            HTTPException: pages.refused,
            InputError: pages.bad_input,
            RunError: pages.busy,
        },
    )


class _Pages:
    """The handlers. Those that read the store are plain functions, which Starlette runs in threads."""

    def __init__(self, store: Store, study_key: str, name: str, report_folder: Path) -> None:
        self._folder = report_folder
        self._files = StaticFiles(directory=report_folder, html=True, check_dir=False)
        self._store = store
        self._parts = (store, study_key, name)

    def questions(self, request: Request) -> Response:
        """The list."""
        return _page(render_list(self._explorer().list_view(Filters.of(request.query_params))))

    def question(self, request: Request) -> Response:
        """One question."""
        view = self._explorer().question_view(request.path_params["key"], Filters.of(request.query_params))
        if view is None:
            raise HTTPException(404, "The study has no question of this key.")
        return _page(render_question(view))

    def student(self, request: Request) -> Response:
        """A student's lineage."""
        explorer = self._explorer()
        found = explorer.student(request.path_params["key"])
        if found is None:
            raise HTTPException(404, "The study has no student of this key.")
        return _page(render_student(explorer.frame(), found, Filters.of(request.query_params)))

    async def report(self, request: Request) -> Response:
        """A file of the drawn report; without one, the way to the list."""
        path = str(request.path_params["path"])
        if not self._has_report():
            if not path:
                return RedirectResponse(LIST)
            raise HTTPException(404, "There is no such page.")
        if any(part.startswith(".") for part in path.split("/")):
            raise HTTPException(404, "There is no such file.")
        response = await self._files.get_response(self._files.get_path(request.scope), request.scope)
        is_page = response.headers.get("content-type", "").startswith("text/html")
        response.headers["Content-Security-Policy"] = _PAGE_POLICY if is_page else _FILE_POLICY
        return response

    async def refused(self, request: Request, error: Exception) -> Response:
        """A page that is not there, or may not be asked for like this."""
        if not isinstance(error, HTTPException):
            raise error
        title = HTTPStatus(error.status_code).phrase
        told = {404: "There is no such page.", 405: "Pages can only be read."}.get(error.status_code, title)
        text = told if error.detail == title else error.detail
        return _page(render_message(self._frame(), title, text), error.status_code, dict(error.headers or {}))

    async def bad_input(self, request: Request, error: Exception) -> Response:
        """An address that makes no sense."""
        return _page(render_message(self._frame(), "This address cannot be shown", f"{error}."), 400)

    async def busy(self, request: Request, error: Exception) -> Response:
        """A store that is held by another process, or gone for the moment."""
        text = f"The results cannot be read just now: {error}."
        page = render_message(self._frame(), "The store is busy", text, retry=True)
        return _page(page, 503, {"Retry-After": str(RETRY_SECONDS)})

    def _explorer(self) -> Explorer:
        if not self._store.exists():  # asking it would make an empty one
            raise RunError(f"the store {self._store.name} is gone")
        store, study_key, name = self._parts
        return Explorer(store, study_key, name, report=self._has_report())

    def _frame(self) -> Frame:
        return Explorer(*self._parts, report=self._has_report()).frame()

    def _has_report(self) -> bool:
        return (self._folder / "index.html").is_file()


class _SecurityHeaders:
    """Adds the headers that keep a page to itself to every answer, the refused ones too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", _EXPLORER_POLICY)
                headers.setdefault("Cache-Control", "no-cache")
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, sent)


def _page(html: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # A running study changes what a page shows.
    return HTMLResponse(html, status, {"Cache-Control": "no-store", **(headers or {})})


def _text(content: str, media_type: str) -> Callable[[Request], Response]:
    def respond(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return respond


def _server(app: Starlette, host: str, port: int) -> tuple[uvicorn.Server, socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise InputError(
            f"{host} port {port} cannot be listened on ({error.strerror}): choose another with "
            f"{'--host' if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL else '--port'}"
        ) from None
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
    )
    return _Server(config), listening


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers, which would raise the signal again after the end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    def end(*_: Any) -> None:
        server.should_exit = True

    kept = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _address(host: str, listening: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
