"""A real browser to look at reports with: one on PATH, or Chromium as npm packs it.

`python tests/browser.py FOLDER` puts the latter there, with the libraries and the font that it
needs, and prints where it is. pip brings all that this takes: npm, and playwright to drive it.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

#: Where the noxfile says that a browser is.
VARIABLE = "REPORT_BROWSER"
PACKAGE = "@sparticuz/chromium@147.0.0"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
UNPACK = """
const fs = require("fs"), zlib = require("zlib");
const [from, to] = process.argv.slice(1);
for (const name of fs.readdirSync(from).filter(name => name.endsWith(".br"))) {
  const whole = zlib.brotliDecompressSync(fs.readFileSync(`${from}/${name}`));
  fs.writeFileSync(`${to}/${name.slice(0, -3)}`, whole);
}
"""


def find() -> Path | None:
    """Return the browser to use: the one that was named, or one on PATH."""
    named = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, NAMES)), None)
    return Path(named) if named else None


def environment(browser: Path) -> dict[str, str]:
    """Return the variables with which it finds what lies beside it."""
    beside = browser.parent
    if not (beside / "fonts.conf").exists():
        return {}
    return {"LD_LIBRARY_PATH": str(beside / "lib"), "FONTCONFIG_PATH": str(beside)}


def fetch(folder: Path) -> Path:
    """Put Chromium into a folder, where it is not there yet, and return its path."""
    browser = folder.resolve() / PACKAGE.replace("/", "-") / "chromium"
    if browser.exists():
        return browser
    part = folder / "part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    npm = ("npm", "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund")
    subprocess.run([*npm, "--prefix", str(part), PACKAGE], check=True, timeout=180, stdout=2)
    packed = part / "node_modules/@sparticuz/chromium/bin"
    subprocess.run(["node", "-e", UNPACK, str(packed), str(part)], check=True, timeout=120)
    for name in ("al2023.tar", "fonts.tar", "swiftshader.tar"):
        with tarfile.open(part / name) as archive:
            archive.extractall(part, filter="data")
        (part / name).unlink()
    fonts = f"<fontconfig><dir>{browser.parent}/fonts</dir></fontconfig>\n"
    (part / "fonts.conf").write_text(fonts, "utf-8")
    shutil.rmtree(part / "node_modules")
    (part / "chromium").chmod(0o755)
    part.rename(browser.parent)
    return browser


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1])))
