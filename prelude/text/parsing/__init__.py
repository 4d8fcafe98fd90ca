"""Answers taken apart as they stream: reasoning, content, tool calls, whatever the chunks are."""
