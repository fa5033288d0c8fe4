"""Certificate authorities for tests, made with the openssl program: server and client certificates by subject name."""

import subprocess


def openssl(*words):
    return subprocess.run(["openssl", *words], check=True, capture_output=True).stdout


class Authority:
    """An authority of one's own in a folder: `ca` is its certificate, `issue` makes a pair of PEM files."""

    def __init__(self, folder, name="authority"):
        self.folder = folder
        self.ca, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        self._new = ["req", "-x509", *curve]
        openssl(*self._new, "-subj", f"/CN={name}", "-days", "2", "-keyout", str(self._key), "-out", str(self.ca))

    def issue(self, name, *sans, days="2", use="serverAuth,clientAuth", key="ec"):
        """`name`.pem and `name`.key, for the subject alternative names as openssl writes them."""
        pem, secret = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        kind = ["-newkey", "rsa:2048", "-nodes"] if key == "rsa" else self._new[2:]
        names = ["-addext", f"subjectAltName={','.join(sans)}"] if sans else []
        openssl(
            *["req", "-x509", *kind, "-subj", f"/CN={name}", "-days", days, "-CA", str(self.ca), "-CAkey"],
            *[str(self._key), *names, "-addext", f"extendedKeyUsage={use}", "-addext", "basicConstraints=CA:FALSE"],
            *["-keyout", str(secret), "-out", str(pem)],
        )
        return pem, secret
