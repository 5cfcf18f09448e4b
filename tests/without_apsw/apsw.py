"""In the path of a process, this hides the real package: the process works without it."""

raise ImportError("hidden by a test")
