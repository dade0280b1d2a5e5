"""Rendering: records in, text, HTML or pictures out; nothing is computed here."""
