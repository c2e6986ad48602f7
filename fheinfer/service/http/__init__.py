"""The HTTP side of the service: one process of pure Python that opens no secret and evaluates nothing."""
