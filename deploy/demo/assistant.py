"""The quick start's agent with two more tools, a shell among them, and a question of the caller's.

Exits with 3 when a policy stopped it.
"""

import subprocess
import sys
from pathlib import Path

from agent_assembly import AgentAssembly, PolicyDenied
from langchain_openai import ChatOpenAI
try:
    from langchain.agents import AgentExecutor, create_openai_tools_agent
except ImportError:  # LangChain 1.x keeps them here
    from langchain_classic.agents import AgentExecutor, create_openai_tools_agent
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.tools import tool

DOCUMENTS = Path(__file__).parent / "documents"

aaa = AgentAssembly()

@tool
def read_document(name: str) -> str:
    """Return the text of one of the team's documents."""
    return (DOCUMENTS / Path(name).name).read_text()

@tool
def execute_shell(command: str) -> str:
    """Run a command in a shell and return what it prints."""
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout

@aaa.agent(name="langchain-research-agent")
def run_agent(question: str) -> str:
    llm = ChatOpenAI(model="gpt-4o", temperature=0)
    tools = [read_document, execute_shell]
    prompt = ChatPromptTemplate.from_messages([
        ("system", "You are a helpful research assistant."),
        ("human", "{input}"),
        MessagesPlaceholder(variable_name="agent_scratchpad"),
    ])
    agent = create_openai_tools_agent(llm, tools, prompt)
    executor = AgentExecutor(agent=agent, tools=tools, verbose=False)
    result = executor.invoke({"input": question})
    return result["output"]

if __name__ == "__main__":
    try:
        print(run_agent(sys.stdin.read()))
    except PolicyDenied as denied:
        print(f"The agent was stopped: {denied}")
        sys.exit(3)
