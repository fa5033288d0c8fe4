"""Chooses the reader: by name, or the first that is available."""

from exporter.bpf.maps import Reader, ReaderMissing


def open_reader(name: str) -> Reader:
    """The reader called `name`; `auto` is libbpf, else bpftool, never bcc (its bindings cost some 60 MiB).

    Raises `ReaderMissing` with what to install.
    """
    if name != "auto":
        return _open(name)
    missing = []
    for candidate in ("libbpf", "bpftool"):
        try:
            return _open(candidate)
        except ReaderMissing as error:
            missing.append(str(error))
    raise ReaderMissing("; ".join(missing))


def _open(name: str) -> Reader:
    # Imported here: `serve` must not load the readers that it does not use.
    if name == "bpftool":
        from exporter.bpf.bpftool import bpftool_reader

        return bpftool_reader()
    if name == "bcc":
        from exporter.bpf.bcc import bcc_reader

        return bcc_reader()
    from exporter.bpf.libbpf import libbpf_reader

    return libbpf_reader()
