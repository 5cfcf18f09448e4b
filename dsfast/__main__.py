"""``python -m dsfast`` is the command ``dsfast``."""

from dsfast.cli import main

if __name__ == "__main__":
    main()
