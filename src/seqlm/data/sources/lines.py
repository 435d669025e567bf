"""Lines of small text files; errors name the file and the line."""

from __future__ import annotations

from pathlib import Path

from ...errors import ConfigError


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, with any line ends, without blank lines at its end. Raises ConfigError.

    Unlike str.splitlines it cuts at no other character, so that line numbers are those that an editor shows.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = data[: error.start].count(b"\n") + 1, data[error.start]
        raise ConfigError(
            f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8; convert it, as with `iconv -f latin1 -t utf-8`"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    if not text.strip():
        raise ConfigError(f"{path} is empty")
    return text.split("\n")
