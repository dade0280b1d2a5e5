"""From what ranks did to a verdict: pure functions over aligned facts; nothing here prints or reads a clock."""
