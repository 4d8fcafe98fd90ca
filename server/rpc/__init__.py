"""gRPC beside HTTP, on the protocol that vLLM's gRPC server speaks: same engine, keys and limits.

Nothing here is imported unless ``server.grpc.port`` is set; it needs the extra ``grpc``.
"""
