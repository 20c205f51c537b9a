"""What `lamplighter up` tells the person who started it: where it is, the first key, a login link, what it is doing.

On standard output, apart from the log: text for people, one JSON object a line with `--log-format json`. Holds the only place where a key
or a login link is ever printed.
"""

import contextlib
import json
import sys
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from lamplighter.cli.invocation import console


@dataclass(frozen=True, slots=True)
class Announcement:
    """The start of one server. `login`: None where whoever reads this may not be who administers. `first_key`: made just now, shown this once.
    `note`: a word about weak models.
    """

    url: str
    login: str | None
    first_key: str | None
    models: tuple[str, ...]
    data: str
    config_file: str | None
    public: bool
    note: str | None


def _whatever_becomes_of_the_terminal() -> AbstractContextManager[None]:
    return contextlib.suppress(OSError, ValueError)


class Announcer:
    """Prints for one run. A terminal that is gone, or a full disk behind it, must not end the server: then nothing is printed."""

    def __init__(self, log_format: str) -> None:
        self._json = log_format == "json"

    def started(self, said: Announcement, *, open_browser: bool = False) -> None:
        """Say where the server is and how to use it."""
        with _whatever_becomes_of_the_terminal():
            if self._json:
                self._line("listening", **asdict(said))
            else:
                self._banner(said)
        if open_browser and said.login:
            import webbrowser

            webbrowser.open(said.login)

    def keeping(self, url: str) -> None:
        """Say that a keeper on its own runs, and where it shows how it is."""
        with _whatever_becomes_of_the_terminal():
            if self._json:
                self._line("keeping", url=url)
            else:
                print(f"Keeping the pools. How this keeper is: {url}/ready and {url}/metrics; clients ask a gateway.", flush=True)

    def note(self, text: str, **fields: Any) -> None:
        """One more sentence."""
        with _whatever_becomes_of_the_terminal():
            if self._json:
                self._line(text, **fields)
            else:
                console().print(text, soft_wrap=True, highlight=False, markup=False)
                sys.stdout.flush()

    def stopping(self, grace: float) -> None:
        """Say that the end was asked for."""
        self.note(f"Stopping: running answers may finish (at most {grace:g} s), then the engines end. Once more ends at once.")

    def problem(self, message: str, next_step: str) -> None:
        """Something went wrong that does not keep the server from serving."""
        with _whatever_becomes_of_the_terminal():
            if self._json:
                self._line(message, level="error", next_step=next_step)
            else:
                print(f"error: {message}" + (f"\n  next: {next_step}" if next_step else ""), file=sys.stderr, flush=True)

    def _line(self, event: str, level: str = "info", **fields: Any) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        print(json.dumps({"timestamp": stamp, "level": level, "event": event, **fields}, ensure_ascii=False), flush=True)

    def _banner(self, said: Announcement) -> None:
        from rich.text import Text

        screen = console()
        screen.print(Text("Lamplighter", style="bold"), Text(f"serves {', '.join(said.models) or 'no model yet'}", style="dim"))
        link = Text(said.login or said.url, style=f"bold cyan link {said.login or said.url}")
        opens = "opens once, within 15 minutes" if said.login else "sign in with a key"
        screen.print(Text("  chat   "), link, Text(f"  ({opens})", style="dim"), sep="", soft_wrap=True)
        screen.print(Text(f"  API    {said.url}/v1"), soft_wrap=True)
        screen.print(Text(f"  data   {said.data}"), soft_wrap=True)
        screen.print(Text(f"  config {said.config_file or 'none: the defaults'}"), soft_wrap=True)
        if said.first_key:
            self._first_key(said, said.first_key)
        else:
            screen.print(
                Text("  keys   `lamplighter keys create NAME` makes one; `lamplighter login` makes a new link", style="dim")
            )
        if said.note:
            screen.print(Text(f"  note   {said.note}", style="yellow"), soft_wrap=True)
        if said.public:
            warning = (
                "other machines can reach this port, over plain HTTP: put a TLS proxy before it where the network is not yours"
            )
            screen.print(Text(f"  beware {warning}", style="yellow"), soft_wrap=True)
        screen.print(Text("Ctrl-C stops it.", style="dim"))
        sys.stdout.flush()

    def _first_key(self, said: Announcement, key: str) -> None:
        model = said.models[0] if said.models else "MODEL"
        # `print`, not the console: what is pasted must not be wrapped or styled.
        print(f"""
Your first key, shown this once:

  {key}

  curl {said.url}/v1/chat/completions -H 'Authorization: Bearer {key}' \\
    -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{said.url}/v1", api_key="{key}")
  answer = client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello!"}}])
  print(answer.choices[0].message.content)
""")
