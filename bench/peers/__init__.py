"""Other people's codecs, each measured in an environment of its own."""
