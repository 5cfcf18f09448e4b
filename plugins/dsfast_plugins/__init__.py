"""The official plugins.

Each uses only the public contract of :mod:`dsfast.plugin` and needs the extra that is named like it
(``pip install dsfast[redis]``).
"""
