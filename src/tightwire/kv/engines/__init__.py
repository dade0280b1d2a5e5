"""Adapters to serving engines: the only files that import one."""
