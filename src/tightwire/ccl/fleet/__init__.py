"""One job on several hosts: an agent on each ships what it sees to one collector, which judges over all of them.

| file | |
|---|---|
| `messages` | what agents and collectors say to each other |
| `backlog` | what an agent has seen and not yet delivered, bounded |
| `sending` | the agent's side of the conversation, without a socket |
| `hosts` | the collector's side: many hosts as one source |
| `delay` | how far a host's clock is ahead, by the least delay |
| `uplink_zmq`, `uplink_redis` | the agent's thread that owns the connection |
| `lobby_zmq`, `lobby_redis` | the collector's |
| `streams` | Redis Streams as their wire |
| `station` | the agent as a process |
| `incidents` | what is open, on disk, so that a restarted collector knows it |
| `judging` | one job: from its hosts to verdicts and incidents |
"""
