"""A small API server for the benchmark: over TLS, with one list of pods, and a watch without events."""

import json
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from connections import make_certificate

# Runs a program as in a pod: with a service account in its folder, which no other program sees.
_IN_POD = "mount -t tmpfs tmpfs /run && mkdir -p /run/secrets/kubernetes.io"
_IN_POD += ' && cp -r "$0" /run/secrets/kubernetes.io/serviceaccount && exec "$@"'
# What a pod of a Deployment with one container holds besides what the exporter reads: some 8 kB.
_PADDING = {"managedFields": [{"fieldsV1": {f"f:field-{number}": {}}} for number in range(250)]}


@contextmanager
def api_server(names: Sequence[tuple[str, str]], address_of: Callable[[int], str], folder: Path) -> Iterator[Path]:
    """The kubeconfig of a cluster with these pods, namespace and name each, all on the node `node`."""
    make_certificate(folder)
    pods = [_pod(*name, address_of(number)) for number, name in enumerate(names)]
    head = {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}}
    listed = json.dumps({**head, "items": pods}).encode()
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            watch = "watch=true" in self.path
            self.send_response(200)
            if watch:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(len(listed)))
            self.end_headers()
            if watch:
                ended.wait()
                self.close_connection = True
            else:
                self.wfile.write(listed)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "c.pem", folder / "k.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield _kubeconfig(folder, server.server_port)
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


def _pod(namespace: str, name: str, address: str) -> dict[str, object]:
    metadata = {"namespace": namespace, "name": name, "uid": f"{namespace}/{name}", "resourceVersion": "1", **_PADDING}
    owner = {"kind": "ReplicaSet", "name": name.rpartition("-")[0], "controller": True}
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    return {"metadata": {**metadata, "ownerReferences": [owner]}, "spec": {"nodeName": "node"}, "status": status}


def _kubeconfig(folder: Path, port: int) -> Path:
    path = folder / "kubeconfig"
    cluster = {"server": f"https://localhost:{port}", "certificate-authority": str(folder / "c.pem")}
    content = {
        "current-context": "bench",
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "clusters": [{"name": "bench", "cluster": cluster}],
        "users": [{"name": "bench", "user": {"token": "none"}}],
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def as_in_a_pod(kubeconfig: Path, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Words before a command that has the service account of a pod in the cluster of this kubeconfig, and its
    environment. Writes the account's files into `folder`, which is new.
    """
    cluster = json.loads(kubeconfig.read_text(encoding="utf-8"))["clusters"][0]["cluster"]
    folder.mkdir()
    shutil.copy(cluster["certificate-authority"], folder / "ca.crt")
    for name in ("token", "namespace"):
        (folder / name).write_text("none", encoding="utf-8")
    host, _, port = cluster["server"].rpartition("//")[2].partition(":")
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, "NODE_NAME": "node"}
    return ["unshare", "--mount", "sh", "-c", _IN_POD, str(folder)], environment
