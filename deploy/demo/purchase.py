"""An agent that orders office supplies: above a hundred dollars a person has to approve."""

from agent_assembly import AgentAssembly

aaa = AgentAssembly()

@aaa.tool
def place_order(item: str, amount: int) -> str:
    """Order something, for so many dollars."""
    return f"ordered: {item} for ${amount}"

@aaa.agent(name="office-buyer")
def buy() -> str:
    return place_order(item="a standing desk", amount=640)

if __name__ == "__main__":
    print(buy())
