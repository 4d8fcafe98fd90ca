"""The HTTP front of the engine: OpenAI routes, SSE, health, metrics, chat page. No torch."""
