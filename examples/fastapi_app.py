"""A web app over a router. A client that leaves ends the call it waits for.

Run it with `uvicorn --app-dir examples fastapi_app:app`, then

    curl -s localhost:8000/chat -H 'content-type: application/json' -d '{"text": "Hello"}'
    curl -sN localhost:8000/chat/stream -H 'content-type: application/json' -d '{"text": "Hello"}'
    curl -s localhost:8000/statistics
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import from_environment
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from asyncroute import AsyncRouteError, ExecutionResult, LLMRouter

T = TypeVar("T")


class Question(BaseModel):
    text: str = Field(min_length=1)
    capability: str = "general"
    max_cost: float | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=1)


# What a client may do about an error, by its kind; everything else is the upstream's fault.
STATUS = {
    "bad_request": 400,
    "context_too_long": 413,
    "content_refused": 422,
    "overloaded": 503,
    "no_eligible_model": 503,
    "budget_exceeded": 402,
    "deadline_exceeded": 504,
}


def create_app(models: list[Any] | None = None, providers: dict[str, Any] | None = None) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with LLMRouter(
            models or from_environment.models(), providers or from_environment.providers()
        ) as router:
            app.state.router = router
            yield  # on the way out the router lets calls in flight finish

    app = FastAPI(title="Chat", lifespan=lifespan)

    @app.post("/chat")
    async def chat(question: Question, request: Request) -> Any:
        router: LLMRouter = request.app.state.router
        result = await unless_gone(request, router.execute(question.text, **fields(question)))
        if result is None:
            return Response(status_code=499)  # nobody reads it
        if not result.success:
            raise HTTPException(status_of(result), result.error)
        return {"text": result.response, "model": result.model_id, "cost": result.actual_cost}

    @app.post("/chat/stream")
    async def chat_stream(question: Question, request: Request) -> StreamingResponse:
        router: LLMRouter = request.app.state.router
        return StreamingResponse(events(router, question), media_type="text/event-stream")

    @app.get("/statistics")
    async def statistics(request: Request) -> dict[str, Any]:
        router: LLMRouter = request.app.state.router
        return router.get_statistics()

    return app


def status_of(result: ExecutionResult) -> int:
    kinds = [result.error_kind, *(attempt.error_kind for attempt in result.attempts)]
    return next((STATUS[kind] for kind in kinds if kind in STATUS), 502)


def fields(question: Question) -> Any:
    return question.model_dump(exclude={"text"}, exclude_none=True)


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


async def events(router: LLMRouter, question: Question) -> AsyncIterator[str]:
    """Answer in server-sent events: `text` pieces, then one `done` or `error`."""
    stream = router.stream(question.text, **fields(question))
    try:
        # When the client has gone, the generator is cancelled, and this block closes the
        # provider's stream.
        async with stream:
            async for chunk in stream:
                if chunk.text:
                    yield event("text", chunk.text)
    except AsyncRouteError as error:
        yield event("error", {"kind": error.kind, "message": str(error)})
        return
    result = stream.result()
    yield event("done", {"model": result.model_id, "cost": result.actual_cost})


def event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


app = create_app()
