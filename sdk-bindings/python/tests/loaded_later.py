"""A program that loads its libraries only after it made its AgentAssembly; see `test_langchain.py`."""

from agent_assembly import AgentAssembly, PolicyDenied

aaa = AgentAssembly()

import openai  # noqa: E402
from langchain_core.tools import tool  # noqa: E402
from langchain_openai import ChatOpenAI  # noqa: E402


@tool
def bash(command: str) -> str:
    """Runs a command."""
    return command


with aaa.run("loads-later"):
    for call in (
        lambda: bash.invoke({"command": "ls"}),
        lambda: ChatOpenAI(model="forbidden-model").invoke("hello"),
        lambda: openai.OpenAI().responses.create(model="forbidden-model", input="hello"),
    ):
        try:
            call()
        except PolicyDenied as denied:
            print(type(denied).__name__)
