"""`python -m wazuka` is the command `wazuka`."""

from wazuka.cli.app import main

if __name__ == "__main__":
    main()
