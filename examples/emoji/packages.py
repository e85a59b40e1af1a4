"""The packages that the emoji are made from: where each is, and its files, read as data and never run or unpacked."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmada.errors import InputError

MAX_FILE = 32 * 2**20
"""Bytes of the largest file that is read out of a package; pictures and tables are far smaller."""
MAX_PACKAGE = 256 * 2**20


@dataclass(frozen=True)
class Package:
    """An npm package: its name, the version that this example was made with, and that version's sha512 as the registry has it."""

    name: str
    version: str
    integrity: str

    @property
    def file(self) -> str:
        """Name of its tarball."""
        return f"{self.name}-{self.version}.tgz"


NAMES = Package(
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
NOTO = Package(
    "emoji-datasource-google",
    "16.0.0",
    "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
)
TWEMOJI = Package(
    "emoji-datasource-twitter",
    "16.0.0",
    "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
)
FLUENT = Package(
    "fluentui-emoji",
    "1.3.0",
    "sha512-JTXXwqIie2rWTgOkIJDJxr0WtwTz2WU4kdOq8buLVThYwQ264aFR2jdTyuon2oEbLqqGMT64zI4btyn1saB2xw==",
)
PACKAGES = (NAMES, NOTO, TWEMOJI, FLUENT)


def tarball(package: Package, given: Path | None, cache: Path) -> Path:
    """The tarball of a package: one of any version in the folder ``given``, else the pinned version, downloaded once."""
    if given is not None:
        found = sorted(given.glob(f"{package.name}-[0-9]*.tgz"))
        if not found:
            raise InputError(f"--packages {given} has no {package.name}-VERSION.tgz; put it there or leave --packages out")
        return found[-1]
    path = cache / package.file
    if not path.is_file() or integrity(path) != package.integrity:
        cache.mkdir(parents=True, exist_ok=True)
        print(f"downloading {package.file}", flush=True)
        part = path.with_suffix(".part")
        download(package, part)
        if integrity(part) != package.integrity:
            part.unlink()
            raise InputError(f"download of {package.file} has another sha512 than the published one; try again")
        part.replace(path)
    return path


def download(package: Package, out: Path) -> None:
    """Write the tarball of a package to ``out``, through npm where it is installed, since it knows the machine's mirror."""
    if npm := shutil.which("npm"):
        done = subprocess.run(
            [npm, "pack", "--silent", f"{package.name}@{package.version}", "--pack-destination", str(out.parent)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            (out.parent / package.file).replace(out)
            return
    registry = os.environ.get("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org")
    url = f"{registry.rstrip('/')}/{package.name}/-/{package.file}"
    try:
        with urllib.request.urlopen(url, timeout=120) as answer:  # the registry's own address, or the one the user set
            out.write_bytes(answer.read(MAX_PACKAGE))
    except OSError as error:
        raise InputError(
            f"package {package.file} cannot be downloaded from {url} ({error}); get it with `npm pack {package.name}` "
            "elsewhere and give its folder with --packages"
        ) from error


def integrity(path: Path) -> str:
    """A file's sha512 as npm writes it."""
    with path.open("rb") as opened:
        return "sha512-" + base64.b64encode(hashlib.file_digest(opened, "sha512").digest()).decode()


def files(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name below the package's top folder, bytes) of those files of a tarball whose name is ``wanted``."""
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = member.name.partition("/")[2]
                if not member.isfile() or not wanted(name):
                    continue
                if member.size > MAX_FILE:
                    raise InputError(f"package {path.name} has a file {name} of {member.size} bytes; the most is {MAX_FILE}")
                if (opened := archive.extractfile(member)) is not None:
                    yield name, opened.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"package {path} is damaged ({error}); get it again with `npm pack`") from error
