"""A web app over a router. A client that leaves ends the call it waits for.

Run it with `uvicorn --app-dir examples fastapi_app:app`, then

    curl -s localhost:8000/chat -H 'content-type: application/json' -d '{"text": "Hello"}'
    curl -sN localhost:8000/chat/stream -H 'content-type: application/json' -d '{"text": "Hello"}'
    curl -s localhost:8000/statistics
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from math import ceil
from typing import Any, TypeVar

import from_environment
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from asyncroute import (
    AsyncRouteError,
    ConfigurationError,
    LLMRouter,
    NoEligibleModelError,
    Stream,
)

T = TypeVar("T")


class Question(BaseModel):
    text: str = Field(min_length=1)
    capability: str = "general"
    max_cost: float | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=1)


def create_app(models: list[Any] | None = None, providers: dict[str, Any] | None = None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with LLMRouter(
            models or from_environment.models(), providers or from_environment.providers()
        ) as router:
            app.state.router = router
            yield  # on the way out the router lets calls in flight finish

    app = FastAPI(title="Chat", lifespan=lifespan)
    app.add_exception_handler(AsyncRouteError, refused)

    @app.post("/chat")
    async def chat(question: Question, request: Request) -> Any:
        router: LLMRouter = request.app.state.router
        result = await unless_gone(request, router.execute(question.text, **fields(question)))
        if result is None:
            return Response(status_code=499)  # nobody reads it
        text = result.unwrap()
        return {"text": text, "model": result.model_id, "cost": result.actual_cost}

    @app.post("/chat/stream")
    async def chat_stream(question: Question, request: Request) -> Response:
        router: LLMRouter = request.app.state.router
        return EventStream(events(router.stream(question.text, **fields(question))))

    @app.get("/statistics")
    async def statistics(request: Request) -> dict[str, Any]:
        router: LLMRouter = request.app.state.router
        return router.get_statistics()

    return app


def fields(question: Question) -> Any:
    return question.model_dump(exclude={"text"}, exclude_none=True)


# ---------------------------------------------------------------- clients that leave


async def unless_gone(request: Request, answering: Coroutine[Any, Any, T]) -> T | None:
    """Await an answer; cancel it when the client disconnects.

    Frameworks cancel streaming responses when the client has gone, but not plain handlers.
    """
    answer = asyncio.create_task(answering)
    gone = asyncio.create_task(disconnected(request))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        answer.cancel()
        gone.cancel()
        await asyncio.wait((answer, gone))


async def disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# ---------------------------------------------------------------- streams


async def events(stream: Stream) -> AsyncGenerator[str]:
    """Answer in server-sent events: `text` pieces, then one `done` or `error`."""
    async with stream:  # raises if no model answers
        try:
            async for chunk in stream:
                if chunk.text:
                    yield event("text", chunk.text)
        except AsyncRouteError as error:  # too late for a status
            yield event("error", {"kind": error.kind, "message": str(error)})
            return
    result = stream.result()
    yield event("done", {"model": result.model_id, "cost": result.actual_cost})


def event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


class EventStream(StreamingResponse):
    """Sends its status with the first event, so that an error before it has one of its own.

    When the client has gone, it is cancelled, and closes the events, and they the provider's
    stream.
    """

    def __init__(self, events: AsyncGenerator[str]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self.events = events

    async def stream_response(self, send: Any) -> None:
        async with aclosing(self.events):
            first = await anext(self.events)
            self.body_iterator = preceded(first, self.events)
            await super().stream_response(send)


async def preceded(first: str, others: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for other in others:
        yield other


# ---------------------------------------------------------------- errors

# What is not here is the upstream's fault.
STATUS = {
    "bad_request": 400,
    "context_too_long": 413,
    "content_refused": 422,
    "overloaded": 429,
    "budget_exceeded": 402,
    "no_eligible_model": 422,
    "router_state": 503,  # closing
    "deadline_exceeded": 504,
}


async def refused(request: Request, error: Any) -> JSONResponse:
    """Say in HTTP what a client may do about an error."""
    if isinstance(error, ConfigurationError):
        raise error  # ours to mend
    # Where several attempts failed, the first one's error is the cause.
    kinds = (error.kind, getattr(error.__cause__, "kind", ""))
    status = next((STATUS[kind] for kind in kinds if kind in STATUS), 502)
    wait = getattr(error, "retry_after", None) or getattr(error, "renews_after", None)
    if isinstance(error, NoEligibleModelError) and wait is not None:
        status = 503  # there will be a model again
    return JSONResponse(
        {"detail": str(error), "kind": error.kind},
        status,
        headers=None if wait is None else {"retry-after": str(ceil(wait))},
    )


app = create_app()
