"""Sender and receiver: KV blocks over a link, chunk by chunk; every frame is checked before it is used.

| message | direction | meaning |
|---|---|---|
| `Begin` | → | a transfer starts; how many layers and tokens it will cover |
| `Part` + frame | → | one frame of it |
| `Ack` | ← | when that frame arrived, by the receiver's clock |
| `End` | → | how many frames there were |
| `Report` | ← | everything was decoded, or what is missing and why |
| `Ping` + padding | → | measure the link |
| `Pong` | ← | when it arrived |
"""
