"""When to speak up, and seeing to it that it is heard once. What decides is pure; `reconcile` drives the services."""
