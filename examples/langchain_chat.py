"""A LangChain chain over a router. Run: `python examples/langchain_chat.py`."""

from __future__ import annotations

import asyncio

import from_environment
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from asyncroute import LLMRouter
from asyncroute.integrations import ChatAsyncRoute


async def main() -> None:
    async with LLMRouter(from_environment.models(), from_environment.providers()) as router:
        chat = ChatAsyncRoute(router=router, strategy="balanced", max_cost=0.05)
        prompt = ChatPromptTemplate.from_messages(
            [("system", "You are a guide."), ("human", "What should I see in {city}?")]
        )

        # Many at once: the router spreads them and keeps each model's limits.
        chain = prompt | chat | StrOutputParser()
        for answer in await chain.abatch([{"city": "Rome"}, {"city": "Paris"}]):
            print(answer)

        async for piece in (prompt | chat).astream({"city": "Lisbon"}):
            print(piece.text, end="", flush=True)
            if piece.usage_metadata:
                model = piece.response_metadata["model_name"]
                print(f"\n-- {model}, {piece.usage_metadata['output_tokens']} tokens")


if __name__ == "__main__":
    asyncio.run(main())
