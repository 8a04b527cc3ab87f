"""What runs inside the image: the entrypoint and the lock-down. Standard library only, and little of that."""
