"""What both jobs share: units, clocks, the registry, statistics, event records."""
