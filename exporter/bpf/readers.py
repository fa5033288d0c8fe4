"""Chooses the reader: by the name the user gave, or the first that this machine has."""

from exporter.bpf.maps import Reader, ReaderMissing

NAMES = ("auto", "libbpf", "bcc", "bpftool")


def open_reader(name: str) -> Reader:
    """The reader called `name`; `auto` is libbpf, else bpftool, never bcc (its bindings cost some 60 MiB).

    Raises `ReaderMissing` with what to install.
    """
    if name != "auto":
        return _open(name)
    complaints = []
    for candidate in ("libbpf", "bpftool"):
        try:
            return _open(candidate)
        except ReaderMissing as error:
            complaints.append(str(error))
    raise ReaderMissing("; ".join(complaints))


def _open(name: str) -> Reader:
    # Imported here: `serve` must not pay for the readers it does not use.
    if name == "bpftool":
        from exporter.bpf.bpftool import bpftool_reader

        return bpftool_reader()
    if name == "bcc":
        from exporter.bpf.bcc import bcc_reader

        return bcc_reader()
    from exporter.bpf.libbpf import libbpf_reader

    return libbpf_reader()
