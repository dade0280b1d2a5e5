"""The kv demo: real prompts, a prefill and a decode process, links of three speeds; raw, a fixed strategy, auto."""
