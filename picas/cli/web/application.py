"""The routes of the page. All of them only read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from couchdb.http import HTTPError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ...clients import CouchDB
from ...exceptions import PicasError
from ...picaslogger import get_logger
from . import metrics
from .api import Api, explain, respond
from .assets import ICON, INDEX, load_assets
from .charts import Charts
from .events import EventStream, Painter
from .followers import Followers
from .guard import Guard
from .hub import Hub
from .log_files import LogFiles
from .poller import Poller
from .sharing import SharedAnswers

log = get_logger(__name__)

Answer = Callable[[Request], Response]


class Application:
    """The page of a pool, as an ASGI application.

    :param client: the pool
    :param poller: looks at it
    :param hub: the open pages
    :param token: the secret in the link
    """

    def __init__(self, client: CouchDB, poller: Poller, hub: Hub, token: str) -> None:
        self._client = client
        self._poller = poller
        self._hub = hub
        self._painter = Painter()
        self._assets = load_assets()
        self.followers = Followers(client, hub.wake)
        """The logs that are read while they are written."""
        shared = SharedAnswers(poller.check)
        files, charts = LogFiles(client, shared), Charts(client)
        answers: dict[str, Callable[[Request], Mapping[str, Any]]] = Api(client, poller, shared).answers()
        routes = [
            Route("/", self._index, methods=["GET"]),
            Route("/favicon.ico", self._icon, methods=["GET"]),
            Route("/static/{path:path}", self._static, methods=["GET"]),
            Route("/api/events", self._events, methods=["GET"]),
            Route("/api/pool.json", self._pool, methods=["GET"]),
            Route("/api/charts.json", _in_thread(lambda request: respond(charts.answer())), methods=["GET"]),
            Route("/log", _in_thread(files.answer), methods=["GET"]),
            Route("/metrics", _in_thread(self._metrics), methods=["GET"]),
            *(
                Route(f"/api/{name}.json", _in_thread(_json(answer)), methods=["GET"])
                for name, answer in answers.items()
            ),
        ]
        self.guarded = Guard(Starlette(routes=routes), token)
        """The application that a server runs."""

    async def _index(self, request: Request) -> Response:
        return self._asset(request, INDEX)

    async def _icon(self, request: Request) -> Response:
        return self._asset(request, ICON)

    async def _static(self, request: Request) -> Response:
        return self._asset(request, request.path_params["path"])

    def _asset(self, request: Request, path: str) -> Response:
        asset = self._assets.get(path)
        if asset is None:
            return PlainTextResponse("There is no such file.\n", 404)
        headers = {"ETag": asset.etag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, media_type=asset.content_type, headers=headers)

    async def _events(self, request: Request) -> Response:
        query = request.query_params
        is_err = query.get("err", "") not in ("", "0")
        return EventStream(self._hub, self._poller, self.followers, self._painter, query.get("follow") or None, is_err)

    async def _pool(self, request: Request) -> Response:
        return respond({"schema": "picas.pool/1", "database": self._client.database_name, "server": self._client.url})

    def _metrics(self, request: Request) -> Response:
        content = metrics.expose(self._poller.current(), self._client.database_name)
        return Response(content, headers={"Content-Type": metrics.CONTENT_TYPE})


def _json(answer: Callable[[Request], Mapping[str, Any]]) -> Answer:
    return lambda request: respond(answer(request))


def _in_thread(answer: Answer) -> Callable[[Request], Any]:
    """Return an endpoint that lets a thread answer, and says on one line what has failed."""

    async def endpoint(request: Request) -> Response:
        try:
            return await run_in_threadpool(answer, request)
        except (PicasError, HTTPError, OSError) as error:
            return explain(error)
        except Exception as error:
            log.exception("A request has failed")
            return explain(error)

    return endpoint
