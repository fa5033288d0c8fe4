"""A cluster of one node whose kubelet, container runtime, scheduler and controllers are real.

The node's network is a demo node's, with that one's maps and files where Calico has its own. `.ci/in-a-node` gives this
process, and so all of them, processes, mounts and control groups of their own.
"""

import json
import os
import subprocess
from pathlib import Path

from exporter.demo.namespace import enter_namespace
from exporter.demo.plan import NODE_ADDRESS, PODS
from tests.apiserver.cluster import KUBECTL, ROOT, Cluster, wait_until
from tests.kernel.machine import run

NODE = "node-1"
PAUSE = "localhost/pause:cluster"
_SERVICE = "10.97.0.1"
_SOCKET = Path("/run/containerd/containerd.sock")
_VOLUME_PLUGINS = "/var/lib/kubelet/plugins-of-volumes"  # by default below /usr
_OURS = Path(__file__).parent
_ADMISSION = """
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline}
"""


class RealNode:
    """The cluster; `programs` is the folder of `.ci/install-kubernetes`, `images` that of `.ci/cluster-images`.

    `demo` is a node that is built, whose network this process enters.
    """

    def __init__(self, programs, images, folder, authority, demo):
        self._programs, self.images, self._folder, self.demo = programs, images, folder, demo
        enter_namespace(demo.namespace)
        self.api = Cluster(programs, folder, authority, _SERVICE)
        self.api.port = 443
        self.config = self.api.kubeconfig(folder / "kubeconfig", {"token": self.api.admin_token})

    def start(self):
        """Starts everything, until the node is ready."""
        # As Calico's node agent mounts and makes them.
        Path("/run/calico").mkdir()
        for source, target in ((self.demo.bpf.path, "/sys/fs/bpf"), (self.demo.run_dir, "/run/calico")):
            run("mount", "--bind", source, target)
        self._start_runtime()
        # Without kube-proxy and Calico's own, the service's address is the server's.
        run("ip", "addr", "add", f"{_SERVICE}/32", "dev", "lo")
        admission = self._write("admission.yaml", _ADMISSION)
        self.api.start(
            *("--bind-address=0.0.0.0", "--service-cluster-ip-range=10.97.0.0/24"),
            *("--kubelet-preferred-address-types=InternalIP", f"--admission-control-config-file={admission}"),
        )
        config = f"--kubeconfig={self.config}"
        self.api.run("kube-scheduler", config, "--leader-elect=false")
        self._start_controllers(config)
        self._start_kubelet(config)
        wait_until(lambda: "True" == self._condition("Ready"), seconds=180)

    def import_image(self, name):
        """Gives the node an image, by the command of docs/install.md."""
        return self.ctr("images", "import", self.images / f"{name}.tar")

    def ctr(self, *words):
        """Output of containerd's client."""
        return run(self._programs / "ctr", "--namespace=k8s.io", *words).stdout

    def get(self, kind, *words):
        """An object of the API server, or a list."""
        return json.loads(self.api.kubectl("get", kind, *words, "--output=json"))

    def shell(self, script, *, check=True):
        """Runs a script as a user does in a clone who has kubectl, helm and the plugin."""
        path = f"{ROOT / '.venv/bin'}:{KUBECTL.parent}:{self._programs}:{os.environ['PATH']}"
        home = {"HOME": str(self._folder), "KUBECONFIG": str(self.config), "NO_PROXY": "*", "PATH": path}
        done = subprocess.run(
            ["sh", "-euc", script], env={**os.environ, **home}, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert not check or 0 == done.returncode, f"{script}: {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def close(self):
        """Ends all processes; their mounts and control groups end with `.ci/in-a-node`."""
        self.api.close()

    def _start_runtime(self):
        plugin = {"type": "demo", "addresses": {f"{pod.namespace}/{pod.name}": pod.ipv4 for pod in PODS}}
        networks = {"cniVersion": "0.4.0", "name": "demo", "plugins": [plugin]}
        plugins = self._folder / "cni"
        plugins.mkdir()
        (plugins / "demo").symlink_to(_OURS / "cni")
        (plugins / "loopback").symlink_to(self._programs / "loopback")
        self._write("cni/10-demo.conflist", json.dumps(networks))
        cri = '[plugins."io.containerd.grpc.v1.cri"'
        config = self._write(
            "containerd.toml",
            f'version = 2\n{cri}]\nsandbox_image = "{PAUSE}"\nrestrict_oom_score_adj = true\n'
            f'{cri}.cni]\nbin_dir = "{plugins}"\nconf_dir = "{plugins}"\n'
            f'{cri}.containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n'
            f'{cri}.containerd.runtimes.runc.options]\nBinaryName = "{self._programs / "runc"}"\n',
        )
        os.environ["PATH"] = f"{self._programs}:{os.environ['PATH']}"  # where it finds its shim
        process = self.api.run("containerd", f"--config={config}")
        wait_until(_SOCKET.exists, process)
        self.import_image("pause")

    def _start_controllers(self, config):
        ca, (_, key) = self.api.authority.ca, self.api.account
        more = (f"--root-ca-file={ca}", f"--service-account-private-key-file={key}", "--leader-elect=false")
        volumes = f"--flex-volume-plugin-dir={_VOLUME_PLUGINS}"
        self.api.run("kube-controller-manager", config, *more, volumes)

    def _start_kubelet(self, config):
        (self._folder / "resolv.conf").write_text("nameserver 10.97.0.10\n", encoding="ascii")
        asked = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "protectKernelDefaults": True,
            "makeIPTablesUtilChains": False,
            "oomScoreAdj": 0,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "clusterDNS": ["10.97.0.10"],
            "resolvConf": str(self._folder / "resolv.conf"),
            "volumePluginDir": _VOLUME_PLUGINS,
            "evictionHard": {f"{what}.available": "0%" for what in ("memory", "nodefs", "imagefs")},
            "imageGCHighThresholdPercent": 100,
        }
        file = self._write("kubelet.json", json.dumps(asked))
        self.api.run("kubelet", config, f"--config={file}", f"--hostname-override={NODE}", f"--node-ip={NODE_ADDRESS}")

    def _condition(self, name):
        nodes = self.get("nodes")["items"]
        return next(
            (each["status"] for node in nodes for each in node["status"]["conditions"] if each["type"] == name), ""
        )

    def _write(self, name, text):
        path = self._folder / name
        path.write_text(text, encoding="utf-8")
        return path
