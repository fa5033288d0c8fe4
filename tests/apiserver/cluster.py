"""A cluster without nodes: etcd and kube-apiserver as processes, on ports of 127.0.0.1.

kubectl creates what the exporter is to find, so that it is not its own client that says what there is.
"""

import base64
import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from tests.chart.helm import one, render

ROOT = Path(__file__).parents[2]
KUBECTL = ROOT / ".tools" / "bin" / "kubectl"
_START = 120
_OF_ROLES = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding")


class Cluster:
    """`programs` has both programs, `folder` gets their data, `authority` signs all certificates.

    The server is that of `start` and keeps its port; `second` runs beside it for a moment, over the same etcd.
    """

    def __init__(self, programs, folder, authority, *addresses):
        self._programs, self.folder, self.authority = programs, folder, authority
        named = (f"IP:{each}" for each in ("127.0.0.1", *addresses))
        self._pair = authority.issue("apiserver", "DNS:localhost", *named)
        self.account = authority.issue("account")
        self.admin_token = "admin-token"
        (folder / "tokens.csv").write_text(f"{self.admin_token},admin,1,system:masters\n", encoding="ascii")
        self._etcd, self.port, other = free_ports(3)
        self._processes = {}
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd, other))
        listening = (f"--listen-client-urls={client}", f"--advertise-client-urls={client}")
        peers = (f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=one={peer}")
        self._run("etcd", self._etcd, "--name=one", f"--data-dir={folder / 'etcd'}", *listening, *peers)

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    def start(self, *flags, port=None):
        """A server, with more flags, ready to answer."""
        wait_until(self._etcd_answers, self._processes[self._etcd])
        port = port or self.port
        certificate, key = self._pair
        known, signing = self.account
        process = self._run(
            "kube-apiserver",
            port,
            *("--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={port}"),
            *(f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}"),
            *(f"--client-ca-file={self.authority.ca}", f"--token-auth-file={self.folder / 'tokens.csv'}"),
            *(f"--service-account-key-file={known}", f"--service-account-signing-key-file={signing}"),
            *("--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/24"),
            *("--authorization-mode=Node,RBAC", "--endpoint-reconciler-type=none", "--allow-privileged=true"),
            f"--etcd-servers=http://127.0.0.1:{self._etcd}",
            *flags,
        )
        wait_until(lambda: self._ready(port), process)

    def stop(self, port=None):
        """Kills a server, as when its node fails."""
        process = self._processes.pop(port or self.port)
        process.kill()
        process.wait()

    def second(self):
        """The port of another server over the same data, which the caller stops."""
        (port,) = free_ports(1)
        self.start(port=port)
        return port

    def close(self):
        """Ends all processes."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    def run(self, program, *flags):
        """Starts another of the programs."""
        return self._run(program, program, *flags)

    def compact(self):
        """Makes etcd forget all but the latest state."""
        key = base64.b64encode(b"/").decode()
        revision = self._etcd_says("/v3/kv/range", {"key": key})["header"]["revision"]
        self._etcd_says("/v3/kv/compaction", {"revision": revision, "physical": True})

    def kubectl(self, *words, stdin=None, port=None):
        """What kubectl prints, as administrator."""
        where = [f"--server=https://127.0.0.1:{port or self.port}", f"--certificate-authority={self.authority.ca}"]
        where += [f"--token={self.admin_token}", f"--cache-dir={self.folder / 'kubectl'}", "--kubeconfig=/dev/null"]
        command = [KUBECTL, *where, *map(str, words)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
        assert 0 == done.returncode, f"{words}: {done.stderr}"
        return done.stdout

    def create(self, *objects):
        """Creates objects."""
        self.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def make_namespace(self, name, *accounts):
        """A namespace with service accounts, of which a controller would make `default`."""
        made = [("v1", "Namespace", {"name": name})]
        made += [("v1", "ServiceAccount", {"name": each, "namespace": name}) for each in ("default", *accounts)]
        self.create(*({"apiVersion": version, "kind": kind, "metadata": about} for version, kind, about in made))

    def install_roles(self, values):
        """Creates what the chart makes of values for the exporter's rights: its objects, and its account's name."""
        objects = [each for each in render(values) if each["kind"] in _OF_ROLES]
        self.create(*objects)
        return objects, one(objects, "ServiceAccount")["metadata"]["name"]

    def token(self, account, namespace, *words):
        """A token of a service account, through TokenRequest."""
        return self.kubectl("create", "token", account, f"--namespace={namespace}", *words).strip()

    def kubeconfig(self, path, user):
        """Writes a kubeconfig with a user of these fields."""
        trusted = {"server": self.url, "certificate-authority": str(self.authority.ca)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "real", "user": "me"}}],
            "clusters": [{"name": "real", "cluster": trusted}],
            "users": [{"name": "me", "user": user}],
        }
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    def service_account(self, folder, token):
        """Writes what a pod finds in its folder; the environment it has besides."""
        folder.mkdir(exist_ok=True)
        for name, content in (("token", token), ("namespace", "monitoring"), ("ca.crt", self.authority.ca.read_text())):
            (folder / name).write_text(content, encoding="ascii")
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}

    def _run(self, program, key, *flags):
        with (self.folder / f"{key}.log").open("ab") as log:
            # In its own folder: kube-apiserver makes one for certificates where it is started.
            command = [self._programs / program, *flags]
            self._processes[key] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        return self._processes[key]

    def _ready(self, port):
        done = subprocess.run(
            ["curl", "-sf", "--noproxy", "*", "--cacert", self.authority.ca, f"https://127.0.0.1:{port}/readyz"],
            capture_output=True,
            check=False,
        )
        return b"ok" == done.stdout

    def _etcd_answers(self):
        try:
            return self._etcd_says("/v3/maintenance/status", {})
        except OSError:
            return None

    def _etcd_says(self, path, question):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(f"http://127.0.0.1:{self._etcd}{path}", json.dumps(question).encode())
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)


def free_ports(count):
    """Ports of 127.0.0.1 on which nothing listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until(condition, process=None, seconds=_START):
    """What `condition` returns once it is true, while the process runs."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "not within its time"
        assert process is None or process.poll() is None, f"{process.args[0]} ended with {process.returncode}"
        time.sleep(0.1)
    return value


def pod(name, namespace, node, *, owner=None, labels=None):
    """A pod that is bound to a node, as the scheduler leaves it."""
    about = {"name": name, "namespace": namespace, "labels": labels or {}}
    if owner:
        about["ownerReferences"] = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": "1"}]
        about["ownerReferences"][0]["controller"] = True
    spec = {"nodeName": node, "containers": [{"name": "main", "image": "x"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}


def programs():
    """The folder with both programs, None where they are not built."""
    folder = Path(os.environ.get("KUBERNETES", "/nonexistent"))
    return folder if all((folder / name).exists() for name in ("etcd", "kube-apiserver")) else None
