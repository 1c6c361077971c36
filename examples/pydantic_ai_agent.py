"""A pydantic-ai agent whose requests are routed. Run: `python examples/pydantic_ai_agent.py`."""

from __future__ import annotations

import asyncio

import from_environment
from pydantic_ai import Agent

from asyncroute import LLMRouter
from asyncroute.integrations import RoutedModel


async def main() -> None:
    async with LLMRouter(from_environment.models(), from_environment.providers()) as router:
        agent = Agent(RoutedModel(router, strategy="cost_optimized"), instructions="Be brief.")

        @agent.tool_plain
        async def population(city: str) -> int:
            """Tell how many people live in a city."""
            return {"Rome": 2_755_000, "Paris": 2_103_000}.get(city, 0)

        result = await agent.run("Is Rome larger than Paris?")
        print(result.output)
        print(f"-- {result.response.model_name}, {result.usage.output_tokens} tokens")

        async with agent.run_stream("And why?", message_history=result.all_messages()) as run:
            async for piece in run.stream_text(delta=True):
                print(piece, end="", flush=True)
        print(f"\n-- {run.response.model_name}, ${run.usage.cost}")


if __name__ == "__main__":
    asyncio.run(main())
