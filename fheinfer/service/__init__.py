"""Private inference as a service: the HTTP service with its store and queue, the remote client, and the local page."""
