"""The library behind ``prelude bench``: load on a server, step times of an engine, the roof."""
