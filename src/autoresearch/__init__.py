"""autoresearch: let a coding agent improve anything with a number, safely and unattended."""

__version__ = "0.1.0"
