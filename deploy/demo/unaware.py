"""An agent that knows nothing of governance: OpenAI's own client, sent through the proxy by its environment."""

import sys

from openai import OpenAI, PermissionDeniedError

client = OpenAI()


def ask(model: str, question: str, shown: str | None = None) -> None:
    print(f"asking {model}: {shown or question}")
    try:
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            stream=True,
            stream_options={"include_usage": True},
        )
        said = "".join(piece.choices[0].delta.content or "" for piece in stream if piece.choices)
        print(f"  it answers: {said}")
    except PermissionDeniedError as refused:
        print(f"  refused: {refused.message}")


ask("gpt-4o", "Anything to add?")
ask("gpt-4-turbo", "And what do you say?")
ask("gpt-4o", f"Why does our key {sys.stdin.readline().strip()} not work?", "Why does our key … not work?")
