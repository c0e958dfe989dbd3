"""`python -m dreambench` is the command `dreambench`."""

from dreambench.cli import main

if __name__ == "__main__":
    main(prog_name="dreambench")
