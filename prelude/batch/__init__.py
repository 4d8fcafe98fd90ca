"""Files of requests, one JSON object a line, answered into another file."""
