"""`python -m nmt` is the command `nmt`, as `torchrun -m nmt` needs it."""

from nmt.cli import main

if __name__ == "__main__":
    main.entry()
