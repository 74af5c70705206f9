"""`python -m kdmt`, as `torchrun -m kdmt` starts it."""

from kdmt.cli import main

main()
