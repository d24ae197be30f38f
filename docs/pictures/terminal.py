"""Draws docs/images/demo.svg and docs/images/restore.svg: what a terminal shows, of commands that are run for it.

python docs/pictures/terminal.py
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
SBH = Path(sys.executable).with_name("sbh")

_COLUMNS, _WIDE = 100, 118
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_FRAME = re.compile(r"@font-face \{.*?\}\s*", re.S)  # nothing is fetched when somebody looks at a picture
_DAMAGE = "DELETE FROM invoices WHERE org_id = 1 AND id % 7 = 0; UPDATE invoices SET total = 0 WHERE org_id = 1 AND id % 10 = 3"


def shown(command: str, directory: Path, *, columns: int = _COLUMNS, fails: bool = False) -> str:
    """What the command prints into a terminal; its progress, on standard error, is left out. Raises where it fails."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {
        **os.environ,
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "PATH": f"{SBH.parent}:{os.environ['PATH']}",
    }
    with subprocess.Popen(
        ["bash", "-c", command],
        stdout=follower,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        cwd=directory,
        env=environment,
    ) as process:
        os.close(follower)
        printed = b""
        try:
            while part := os.read(leader, 65536):
                printed += part
        except OSError:  # the other end is closed
            pass
    os.close(leader)
    if process.returncode and not fails:
        raise SystemExit(f"{command} ended with {process.returncode}:\n{printed.decode()}")
    return printed.decode().replace("\r\n", "\n")


def draw(name: str, title: str, lines: list[str], columns: int = _COLUMNS) -> None:
    console = Console(
        record=True, width=columns, file=open(os.devnull, "w"), force_terminal=True, color_system="truecolor"
    )
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    picture = _FRAME.sub("", console.export_svg(title=title, unique_id=name))
    (IMAGES / f"{name}.svg").write_text(
        picture.replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono"), "utf-8"
    )


def trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").split("\n")]


def demo(directory: Path) -> None:
    """The end of `make demo`: the steps, and what was proved."""
    lines = trimmed(shown(f"sbh demo --dir {directory / 'demo'}", directory, columns=_WIDE))
    begun = max(nth for nth, line in enumerate(lines) if re.search(r"\bwhat\b.*\btook\b", _ANSI.sub("", line)))
    draw("demo", "make demo", [line.replace(str(directory), "~") for line in lines[begun:]], _WIDE)


def restore(directory: Path) -> None:
    """A customer's rows are damaged; what a restore would do, the restore, and its undo."""
    try:
        found = shown("sbh stack up --dir try -q && sbh stack env --dir try", directory).split("\n", 1)[1]
        prepare = (
            f"psql -qf {ROOT}/docs/examples/shop.sql && sbh doctor --suggest --save -q && sbh backup create acme -q"
        )
        shown(f"{found}\n{prepare} && psql -qc '{_DAMAGE}'", directory)
        lines = []
        for command in (
            "sbh restore diff latest --tenant acme --samples 1",
            "sbh restore run latest --tenant acme --confirm",
            "sbh restore undo $(sbh restore list -t acme -q | head -1) --tenant acme --confirm",
        ):
            lines += [f"\x1b[1m$ {command}\x1b[0m", *trimmed(shown(f"{found}\n{command}", directory)), ""]
        draw("restore", "one tenant: what would change, restore, undo", lines)
    finally:
        shown("sbh stack down --dir try -q", directory, fails=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="sbh-pictures-") as made:
        for picture in (demo, restore):
            if not sys.argv[1:] or picture.__name__ in sys.argv[1:]:
                picture(Path(made))
