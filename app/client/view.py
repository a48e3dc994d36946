"""What a person sees of a stream: a progress bar and a timeline in a terminal, plain lines elsewhere."""

import time
from collections import deque

from rich.console import Group
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from app.client.bookkeeping import Message
from app.client.client import StreamClient

_EVENTS = 12
"""That the timeline shows."""
_RATE = 5.0
"""Seconds over which frames are counted."""


class Timeline:
    """A progress bar, the label of now, the last events. For rich.live.Live, which draws it again and again."""

    def __init__(self, client: StreamClient, total: int | None) -> None:
        self._client = client
        self._now = Text("connecting ...", style="dim")
        self._latency: float | None = None
        self._events: deque[Message] = deque(maxlen=_EVENTS)
        self._missing = 0
        self._counts: deque[tuple[float, int]] = deque()
        self._progress = Progress(TextColumn("{task.fields[place]}"), BarColumn(), TextColumn("{task.fields[state]}"))
        self._task = self._progress.add_task("frames", total=total, place="", state="")

    def take(self, message: Message) -> None:
        """Shows what was said."""
        match message["type"]:
            case "segment" if message["labels"]:
                best = message["labels"][0]
                so_far = ("" if message["final"] else "  so far", "dim")
                self._now = Text.assemble(
                    f"{message['end']:10.1f} s  ", (best["label"], "bold green"), f"  {best['score']:.0%}", so_far
                )
                self._latency = message["latency"] if message["latency"] is not None else self._latency
            case "event":
                keys = [_key(event) for event in self._events]  # more than one may go on at once
                if _key(message) in keys:
                    self._events[keys.index(_key(message))] = message
                else:
                    self._events.append(message)
            case "dropped":
                self._missing += message["frames"]
            case "disconnected":
                self._now = Text(f"{_where(message)}; trying again ...", style="yellow")
            case "error":
                self._now = Text(f"{message['code']}: {message['detail']}", style="yellow")
            case "ready":
                self._now = Text(f"frame {message['resume_from']} is next", style="dim")

    def rate(self, now: float) -> float:
        """Frames a second, lately; now is a monotonic clock's."""
        self._counts.append((now, self._client.read))
        while len(self._counts) > 2 and self._counts[0][0] < now - _RATE:
            self._counts.popleft()
        (began, first), (_, last) = self._counts[0], self._counts[-1]
        return max(0, last - first) / (now - began) if now > began else 0.0

    def __rich__(self) -> Group:
        client = self._client
        state = f"{self.rate(time.monotonic()):.0f} frames/s, credit {client.credit}, {client.waiting} kept"
        if self._latency is not None:
            state += f", labels after {self._latency * 1000:.0f} ms"
        if client.connections > 1:
            state += f", {client.connections - 1} reconnections"
        if lost := max(self._missing, client.lost):
            state += f", {lost} frames lost"
        self._progress.update(self._task, completed=client.read, place=f"frame {client.read}", state=state)
        table = Table.grid(padding=(0, 2))
        for event in self._events:
            going = event["state"] != "ended"
            table.add_row(
                f"{event['start']:10.1f} - {event['end']:.1f} s", Text(event["label"], style="bold" if going else ""),
                f"{event['confidence']:.0%}", "..." if going else "",
            )  # fmt: skip
        return Group(self._progress, self._now, table)


def _key(event: Message) -> tuple[str, float]:
    return event["label"], event["start"]


def _where(message: Message) -> str:
    return f"no connection to {message['server']}: {message['detail']}"


def line(message: Message) -> str | None:
    """A message for those who read lines; None for what does not interest them."""
    match message["type"]:
        case "event" if message["state"] != "updated":
            span = f"{message['start']:8.1f} - {message['end']:8.1f} s"
            return f"{span}  {message['state']:8} {message['label']:18} {message['confidence']:.1%}"
        case "segment" if message["final"] and message["labels"]:
            best = message["labels"][0]
            return f"{message['start']:8.1f} - {message['end']:8.1f} s  {best['label']:18} {best['score']:.1%}"
        case "ready":
            place = f"from frame {message['resume_from']} on"
            return f"stream {message['stream']}: {place}, model {message['model']['name']}"
        case "dropped":
            return f"{message['frames']} frames are missing: {message['detail']}"
        case "disconnected":
            return f"{_where(message)}; trying again"
        case "error":
            return f"{message['code']}: {message['detail']}"
        case _:
            return None
