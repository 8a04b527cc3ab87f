"""What an image is made of, as data: Dockerfile templates, system-call groups, tree rules, bases."""
