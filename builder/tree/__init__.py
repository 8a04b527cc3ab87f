"""Root filesystem + TreeSpec -> the image's root with the jail tree in it.

Pure file work: reads and writes files and parses ELF headers; never runs a program of the target. The
whole package is also the assembler that a build runs under the *base's own* interpreter (see __main__.py),
so it imports the standard library, builder.arch and builder.errors, and nothing else.
"""
