"""``python -m mmada`` is the command ``mmada``."""

from mmada.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    raise SystemExit(main())
