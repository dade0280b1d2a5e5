"""Errors that say whose fault it is.

| class | whose fault | what to do |
|---|---|---|
| `ConfigError` | the caller's settings | fix the key that the message names |
| `StrategyError` | the strategy text | fix it at the position that the message shows |
| `FrameError` | the bytes that arrived | refuse them; the receiver recomputes |
| `LinkError` | the network or the peer | retry or fall back |
| `LayoutError` | a KV layout that we do not know | report it; guessing would corrupt answers |

`ConfigError`, `StrategyError` and `LayoutError` are `ValueError`s: the caller can mend them.
Broken invariants of our own are `AssertionError`s.
"""


class TightwireError(Exception):
    """Anything that Tightwire raises on purpose."""


class ConfigError(TightwireError, ValueError):
    """A setting is wrong: the message names the key, the value and the remedy."""


class StrategyError(TightwireError, ValueError):
    """A strategy text cannot be read: `text`, the `position` where, and what is `allowed` there."""

    def __init__(self, message: str, text: str = "", position: int = 0, allowed: tuple[str, ...] = ()) -> None:
        self.text, self.position, self.allowed = text, position, allowed
        lines = [message]
        if text:
            lines += [f"  {text}", f"  {' ' * position}^"]
        if allowed:
            lines.append(f"  allowed here: {', '.join(allowed)}")
        super().__init__("\n".join(lines))


class FrameError(TightwireError):
    """Bytes are not a frame that we accept: `reason` is a short stable word, the message has the numbers."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {message}")


class LinkError(TightwireError):
    """A peer did not answer, or answered something that is not in the protocol."""


class LayoutError(TightwireError, ValueError):
    """An engine's KV memory is laid out in a way that we have not verified."""
