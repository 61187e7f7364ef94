"""The application: routes of recommendations, similar items, the catalogue, health and metrics."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Body, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tokenization_items.catalogue_updates import CatalogueUpdate
from tokenization_items.item_index import UnknownItemError
from trainers.serving.batching import Batcher, BusyError, ClosedError
from trainers.serving.errors import Refusal, refusal_of
from trainers.serving.gate import Gate
from trainers.serving.limits import Limits
from trainers.serving.metrics import CONTENT_TYPE, Metrics
from trainers.serving.requests import (
    ErrorAnswer,
    HealthAnswer,
    ItemsAnswer,
    ItemsRequest,
    KnownItem,
    RecommendAnswer,
    RecommendRequest,
    SimilarAnswer,
)
from trainers.serving.state import Question, Served, changed, write_changes

logger = logging.getLogger(__name__)

ABOUT = """Recommends items of a shop with a generative recommender.

A history lists the items of one customer, the oldest first. Requests that come together are read together. The
catalogue changes in one step: a request is answered by the one that was there when it came, whose number is `version`.
With a key, each request but /health needs the header `Authorization: Bearer KEY`. Errors are
`{"error": {"message", "field", "row"}}`."""
RECOMMEND_EXAMPLES: dict[str, Any] = {
    "one customer": {"value": {"histories": [["sku-17", "sku-301"]], "top_k": 5}},
    "several, one of them new": {"value": {"histories": [["sku-17"], []], "on_error": "fallback"}},
    "an item that is not in the catalogue": {"value": {"histories": [["sku-17", {"title": "blue steel pen"}]]}},
    "rules": {"value": {"histories": [["sku-17"]], "deny": ["sku-9"], "exclude_seen": True}},
    "where it comes from": {"value": {"histories": [["sku-17"]], "sources": True}},
}
ITEMS_EXAMPLES: dict[str, Any] = {
    "a new item": {"value": {"add": [{"item_id": "sku-900", "title": "green paper cup"}]}},
    "add and remove in one step": {
        "value": {"add": [{"item_id": "sku-900", "title": "green paper cup"}], "remove": ["sku-17"]}
    },
}
ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorAnswer, "description": "No key, or a wrong one."},
    413: {"model": ErrorAnswer, "description": "More than is taken at once."},
    422: {"model": ErrorAnswer, "description": "Something is wrong with the request; field and row say what."},
    503: {"model": ErrorAnswer, "description": "Too much waits: try again after Retry-After seconds."},
}


class Service:
    """
    What the routes share: the recommender that is served, the thread that runs it, and metrics.

    Args:
        served ([`Served`]): the recommender.
        limits ([`Limits`]): of requests.
        reload (`Callable[[int], Served]`): reads the recommender anew, with a version.
        save_to (`Path`, *optional*): folder that changes are written to.
    """

    def __init__(self, served: Served, limits: Limits, reload: Callable[[int], Served], save_to: Path | None = None):
        self.served, self.limits, self.reload, self.save_to = served, limits, reload, save_to
        self.metrics = Metrics()
        self.batcher: Batcher[Question] = Batcher(
            self._answer, limits.max_batch_size, limits.max_wait_ms / 1000, limits.max_waiting
        )
        self.metrics.watch("utgrec_waiting_histories", "Histories that wait.", lambda: self.batcher.waiting)
        self.metrics.watch("utgrec_items", "Items of the catalogue.", lambda: len(self.served.recommender.tokenizer))
        self.metrics.watch("utgrec_catalogue_version", "Number of the catalogue.", lambda: self.served.version)
        self._changing = asyncio.Lock()

    def _answer(self, question: Question, histories: list[Any]) -> list[Any]:
        began = time.perf_counter()
        answers = question.answer(histories, self.limits.max_batch_size)
        self.metrics.batch_seconds.observe(time.perf_counter() - began)
        self.metrics.batch_histories.observe(len(histories))
        return answers

    async def recommend(self, request: RecommendRequest) -> dict[str, Any]:
        """Answers a request, by the recommender that is served now."""
        request.check(self.limits)
        served = self.served
        check_rules(request, served)
        question = Question(
            served,
            request.top_k,
            request.exclude_seen,
            None if request.allow is None else tuple(request.allow),
            tuple(request.deny),
            request.num_beams,
            request.sources,
            "skip" if request.on_error == "raise" else request.on_error,
        )
        try:
            answers = asyncio.wrap_future(self.batcher.submit(question, request.histories))
            rows = await asyncio.wait_for(answers, self.limits.timeout_s)
        except (BusyError, ClosedError) as error:
            raise Refusal(503, f"{error} Try again later.", headers={"Retry-After": "1"}) from error
        except TimeoutError as error:
            seconds = f"{self.limits.timeout_s:g}"
            raise Refusal(503, f"No answer within {seconds} seconds.", headers={"Retry-After": "1"}) from error
        results = [as_row(row, entries) for row, entries in enumerate(rows)]
        failed = [each["error"] for each in results if each["error"] is not None]
        if failed and request.on_error == "raise":
            raise Refusal(422, failed[0]["message"], failed[0]["field"], failed[0]["row"])
        self.metrics.histories.labels("ok").inc(len(results) - len(failed))
        self.metrics.histories.labels("error").inc(len(failed))
        return {"results": results, "version": served.version}

    async def change(self, request: ItemsRequest) -> dict[str, Any]:
        """Adds and removes items, beside what is served, which is then replaced."""
        request.check(self.limits)

        def make() -> tuple[Served, list[CatalogueUpdate]]:
            after, updates = changed(before, request.add, request.remove, request.retokenize)
            if self.save_to is not None:
                try:
                    write_changes(self.save_to, before, after)
                except (OSError, ValueError) as error:
                    fix = "" if isinstance(error, OSError) else " POST /reload reads what is there; then change that."
                    raise Refusal(409, f"The change was not made, as it cannot be saved: {error}{fix}") from error
            return after, updates

        async with self._changing:
            before = self.served
            try:
                after, updates = await asyncio.to_thread(make)
            except UnknownItemError as error:
                raise Refusal(422, str(error), "remove") from error
            except ValueError as error:
                raise Refusal(422, str(error), "add" if request.add else "remove") from error
            self.served = after
        self.metrics.changes.labels("items").inc()
        return self.catalogue(after, updates)

    async def read_again(self) -> dict[str, Any]:
        """Reads the recommender anew from where it came from, as after `utgrec tokenize`, and replaces it."""
        async with self._changing:
            try:
                self.served = await asyncio.to_thread(self.reload, self.served.version + 1)
            except (OSError, ValueError, KeyError) as error:
                logger.error(f"The recommender could not be read again: {error}")
                raise Refusal(409, f"It could not be read, and what was served stays: {error}") from error
            served = self.served
        self.metrics.changes.labels("reload").inc()
        return self.catalogue(served)

    def catalogue(self, served: Served, updates: list[CatalogueUpdate] | None = None) -> dict[str, Any]:
        """The catalogue as it is, and what was changed."""
        told: dict[str, Any] = {"items": len(served.recommender.tokenizer), "version": served.version}
        for kind in ("added", "changed", "removed") if updates else ():
            told[kind] = [item_id for update in updates or () for item_id in getattr(update, kind)]
        return told | {"saved": bool(updates) and self.save_to is not None}


def check_rules(request: RecommendRequest, served: Served) -> None:
    """Raises [`Refusal`] if rules name unknown items, or something needs a memory that is not there: errors of the
    whole request, before it waits."""
    recommender = served.recommender
    for name in ("allow", "deny"):
        try:
            recommender.tokenizer.index.rows(getattr(request, name) or ())
        except UnknownItemError as error:
            raise Refusal(422, f"{name}: {error}", name) from error
    if recommender.memory is None:
        for name, is_asked in (("sources", request.sources), ("on_error", request.on_error == "fallback")):
            if is_asked:
                raise Refusal(422, f"{name} needs a memory: there is none, `utgrec memory` builds one.", name)


def as_row(row: int, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The pipeline's answer for a history: its items, and why there are none or other ones."""
    reason = next((entry["reason"] for entry in entries if entry.get("reason")), None)
    items = [{name: value for name, value in entry.items() if name != "reason"} for entry in entries]
    error = None if reason is None else {"message": reason, "field": f"histories[{row}]", "row": row}
    return {"items": [each for each in items if each["item_id"] is not None], "error": error}


def is_of_another_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser sent a request for a page that is not of this machine's own address, however it was reached:
    a name that leads here is no proof."""
    if (origin := headers.get("origin")) is None:
        return False
    found = urlsplit(origin)
    try:
        is_here = found.hostname == "localhost" or ipaddress.ip_address(found.hostname or "").is_loopback
    except ValueError:
        is_here = False
    return not is_here or found.netloc != headers.get("host")


def known_item(served: Served, item_id: str) -> dict[str, Any]:
    """What is known of an item. Raises [`Refusal`] (404)."""
    index, memory = served.recommender.tokenizer.index, served.recommender.memory
    try:
        row = int(index.rows([item_id])[0])
    except UnknownItemError as error:
        raise Refusal(404, str(error), "item_id") from error
    return {
        "item_id": index.item_ids[row],
        "title": index.titles[row],
        "semantic_id": index.encode(item_id),
        "interactions": None if memory is None else int(memory.counts[row]),
        "version": served.version,
    }


def tell_errors(app: FastAPI) -> None:
    """Lets an application answer whatever goes wrong as a [`Refusal`] is."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body(), refusal.status, refusal.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        refusal = refusal_of(error.errors())
        return JSONResponse(refusal.body(), refusal.status)

    @app.exception_handler(HTTPException)
    async def no_route(_: Request, error: HTTPException) -> JSONResponse:
        refusal = Refusal(error.status_code, f"{error.detail}: see /docs for what there is.")
        if error.status_code == 400:
            refusal.message = (
                "The body cannot be read: it is not UTF-8, nested too deeply, or has a number of too many digits."
            )
        return JSONResponse(refusal.body(), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse(Refusal(500, "The service failed; its log says where.").body(), 500)


def build_application(service: Service, key: str | None = None, may_change: bool = True) -> FastAPI:
    """
    The routes of a service.

    Args:
        service ([`Service`]): what answers; it is closed with the application.
        key (`str`, *optional*): what requests must show; by default none.
        may_change (`bool`, *optional*, defaults to `True`): whether requests may change the catalogue.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batcher.close)

    app = FastAPI(title="UTGRec", description=ABOUT, version="1", lifespan=lifespan, redoc_url=None, responses=ERRORS)
    limits = service.limits
    app.add_middleware(Gate, metrics=service.metrics, max_bytes=limits.max_bytes, timeout_s=limits.timeout_s, key=key)

    def refuse_changes(request: Request) -> None:
        if not may_change:
            raise Refusal(
                403,
                "The catalogue does not change by requests here: the service was started with --read_only, or without "
                "a key where others reach it.",
            )
        if key is None and is_of_another_site(request.headers):
            raise Refusal(403, "A page of another site changes nothing here: send the request without a browser.")

    tell_errors(app)

    @app.post("/recommend", response_model=RecommendAnswer, summary="Recommend items to customers")
    async def recommend(
        body: Annotated[RecommendRequest, Body(openapi_examples=RECOMMEND_EXAMPLES)],
    ) -> JSONResponse:
        return JSONResponse(await service.recommend(body))

    @app.get("/similar/{item_id:path}", response_model=SimilarAnswer, summary="Items that are alike in content")
    async def similar(item_id: str, top_k: Annotated[int, Query(ge=1)] = 10) -> JSONResponse:
        served, limit = service.served, service.limits.top_k_limit
        if top_k > limit:
            raise Refusal(422, f"top_k is {top_k}, at most {limit} items are given.", "top_k")
        known_item(served, item_id)
        try:
            found = served.recommender.similar(item_id, top_k)
        except ValueError as error:
            raise Refusal(422, str(error)) from error
        return JSONResponse({"items": found, "version": served.version})

    @app.get("/items", response_model=ItemsAnswer, summary="The catalogue in numbers")
    async def items() -> JSONResponse:
        return JSONResponse(service.catalogue(service.served))

    @app.post("/items", response_model=ItemsAnswer, summary="Add, change and remove items, in one step")
    async def change(
        request: Request, body: Annotated[ItemsRequest, Body(openapi_examples=ITEMS_EXAMPLES)]
    ) -> JSONResponse:
        refuse_changes(request)
        return JSONResponse(await service.change(body))

    @app.get("/items/{item_id:path}", response_model=KnownItem, summary="What is known of an item")
    async def item(item_id: str) -> JSONResponse:
        return JSONResponse(known_item(service.served, item_id))

    @app.delete("/items/{item_id:path}", response_model=ItemsAnswer, summary="Remove an item")
    async def remove(request: Request, item_id: str) -> JSONResponse:
        refuse_changes(request)
        known_item(service.served, item_id)
        return JSONResponse(await service.change(ItemsRequest(remove=[item_id])))

    @app.post("/reload", response_model=ItemsAnswer, summary="Read the folder or the repository again")
    async def reload(request: Request) -> JSONResponse:
        refuse_changes(request)
        return JSONResponse(await service.read_again())

    @app.get("/health", response_model=HealthAnswer, summary="Whether it answers")
    async def health() -> JSONResponse:
        served, is_alive = service.served, service.batcher.is_alive
        told = {"items": len(served.recommender.tokenizer), "version": served.version}
        told["waiting"] = service.batcher.waiting
        return JSONResponse({"status": "ok" if is_alive else "ended", **told}, 200 if is_alive else 503)

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return app


__all__ = ["Service", "build_application"]
