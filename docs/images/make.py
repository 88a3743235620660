"""Make the pictures of the README again, light and dark, with Chromium: ``python docs/images/make.py``."""

import html
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCALE = 1.5
COMMAND = ["dasksim", "generate", "model.py", "train.zarr", "-n", "300k", "--seed", "2025"]

TERMINAL = """\
<!DOCTYPE html><meta charset="utf-8"><style>
:root {{ --page: #f6f8fa; --ink: #1f2328; --command: #0550ae; }}
@media (prefers-color-scheme: dark) {{ :root {{ --page: #161b22; --ink: #e6edf3; --command: #79c0ff; }} }}
body {{ margin: 0; padding: 14px 18px; background: var(--page); color: var(--ink); font: 14px/1.5 "DejaVu Sans Mono"; }}
pre {{ margin: 0; font: inherit; }}
b {{ color: var(--command); font-weight: normal; }}
</style><pre>{}</pre>
"""


def run_in_terminal(folder: Path, interrupt_at: int | None = None) -> str:
    """Run the command in a terminal of 100 columns, and return what it shows there at the end, or when interrupted."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, "-m", *COMMAND])
    termios.tcsetwinsize(terminal, (24, 100))
    shown = ""
    while True:
        try:
            read = os.read(terminal, 65536)
        except OSError:  # closed by the other side
            break
        shown += read.decode(errors="replace")
        if interrupt_at and any(int(percent) >= interrupt_at for percent in re.findall(r"(\d+)%\|", shown)):
            os.write(terminal, b"\x03")  # Ctrl-C
            interrupt_at = None
    os.waitpid(pid, 0)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines).strip()


def take_pictures(name: str, page: Path, width: int, top: int, bottom: int) -> None:
    """Take a picture of a part of a page in both colour schemes, with few colours, so that files are small."""
    for scheme, number in (("dark", 0), ("light", 1)):
        file = HERE / f"{name}-{scheme}.png"
        options = [f"--force-device-scale-factor={SCALE}", f"--blink-settings=preferredColorScheme={number}"]
        options += [f"--window-size={width},{bottom}", f"--screenshot={file}", page.as_uri()]
        subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", *options],
            check=True,
            capture_output=True,
        )
        part = (0, int(SCALE * top), int(SCALE * width), int(SCALE * bottom))
        picture = Image.open(file).convert("RGB").crop(part)
        picture.quantize(64, dither=Image.Dither.NONE).save(file, optimize=True)
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Make all pictures."""
    folder = Path(tempfile.gettempdir(), "pictures")  # its name is seen
    folder.mkdir()
    try:
        subprocess.run([sys.executable, ROOT / "examples" / "report.py"], cwd=folder, check=True)
        take_pictures("report", folder / "walk.html", 1000, 1243, 2825)  # statistics and pairs

        model = re.search(r"^```python\n(.*?)^ds = ", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
        assert model is not None
        (folder / "model.py").write_text(model[1])
        prompt = f"<b>$ {' '.join(COMMAND)}</b>\n"
        texts = [prompt + html.escape(run_in_terminal(folder, percent), quote=False) for percent in (40, None)]
        terminal = folder / "terminal.html"
        terminal.write_text(TERMINAL.format("\n".join(texts)))
        take_pictures("progress", terminal, 900, 0, 28 + 21 * sum(text.count("\n") + 1 for text in texts))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
