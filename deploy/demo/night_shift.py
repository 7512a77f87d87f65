"""An agent that reads report after report through the night, for as long as its team's budget lasts.

Exits with 3 when the budget is spent.
"""

import sys

from agent_assembly import AgentAssembly, BudgetExceededError
from openai import OpenAI

aaa = AgentAssembly()

@aaa.agent(name="night-shift", team="reports")
def read_reports() -> None:
    model = OpenAI()
    for number in range(1, 101):
        model.chat.completions.create(
            model="gpt-4o",
            max_tokens=50,
            messages=[{"role": "user", "content": f"What is new in report {number}?"}],
        )
        print(f"report {number} is read", flush=True)

if __name__ == "__main__":
    try:
        read_reports()
    except BudgetExceededError as spent:
        print(f"The agent was stopped: {spent}")
        print(f"of ${spent.limit} a day ${spent.spent} are spent, until {spent.resets_at:%Y-%m-%d %H:%M} UTC")
        sys.exit(3)
