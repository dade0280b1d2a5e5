"""Sender and receiver: KV blocks over a link, piece by piece; every frame is checked before it is used.

| message | direction | meaning |
|---|---|---|
| `Hello` | → | first on a connection: the version |
| `Welcome` | ← | which receiver this is, how much it takes |
| `Begin` | → | a transfer starts (or goes on, after a lost connection); how many layers and tokens it covers |
| `Part` + frame | → | one frame of it |
| `Ack` | ← | when that frame arrived, by the receiver's clock |
| `Taken` | ← | that frame was decoded: the sender may forget it |
| `End` | → | how many frames there were |
| `Report` | ← | everything was decoded, or what is missing and why |
| `Cancel` | ↔ | the transfer is over, nothing of it is kept |
| `Ping` + padding | → | measure the link |
| `Pong` | ← | when it arrived |
"""
