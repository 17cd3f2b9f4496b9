"""`python -m fairlead`."""

from fairlead.cli import app

if __name__ == "__main__":
    app()
