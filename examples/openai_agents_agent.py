"""An OpenAI Agents SDK agent over a router. Run: `python examples/openai_agents_agent.py`."""

from __future__ import annotations

import asyncio

import from_environment
from agents import Agent, Runner, function_tool, set_tracing_disabled
from openai.types.responses import ResponseTextDeltaEvent as TextDelta

from asyncroute import LLMRouter
from asyncroute.integrations import AgentsModel


@function_tool
async def population(city: str) -> int:
    """Tell how many people live in a city."""
    return {"Rome": 2_755_000, "Paris": 2_103_000}.get(city, 0)


async def main() -> None:
    set_tracing_disabled(True)  # by default the SDK sends traces to OpenAI
    async with LLMRouter(from_environment.models(), from_environment.providers()) as router:
        agent = Agent(
            name="Geographer",
            instructions="Be brief.",
            model=AgentsModel(router, strategy="quality_optimized"),
            tools=[population],
        )
        result = await Runner.run(agent, "Is Rome larger than Paris?")
        print(result.final_output)
        print(f"-- {result.context_wrapper.usage.output_tokens} tokens")

        run = Runner.run_streamed(agent, "And why?")
        async for event in run.stream_events():
            if event.type == "raw_response_event" and isinstance(event.data, TextDelta):
                print(event.data.delta, end="", flush=True)
        print()


if __name__ == "__main__":
    asyncio.run(main())
