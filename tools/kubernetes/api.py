"""A real Kubernetes API on this machine: etcd, kube-apiserver and, where asked for, kube-controller-manager; no node,
no container.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Final

from tools import toolchain
from tools.ports import free_ports
from tools.stack.process import NotReadyError, Process, Running

TOKEN: Final = "platform-test"
READY_S: Final = 120.0
#: What decides on pods without a node: Deployment and ReplicaSet make them, the autoscaler counts them.
CONTROLLERS: Final = "deployment-controller,replicaset-controller,horizontal-pod-autoscaler-controller"


class RefusedError(RuntimeError):
    """The API refused; ``status`` is HTTP's, the message the API's own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Kubernetes(Running):
    """A running API; ``request`` asks it, as an administrator.

    Args:
        folder: receives data, keys and logs.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        client, peer, port = free_ports(3)
        self.url = f"https://127.0.0.1:{port}"
        self.kubeconfig = folder / "kubeconfig"
        self._write_kubeconfig()
        self._parts: list[Process] = []
        try:
            self._start_etcd(f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}")
            self._start_server(f"http://127.0.0.1:{client}", port)
        except BaseException:
            self.stop()
            raise

    def _start_etcd(self, client: str, peer: str) -> None:
        command = [
            *(str(toolchain.require("etcd")), "--data-dir", str(self._folder / "etcd"), "--log-level", "warn"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *(
                "--listen-peer-urls",
                peer,
                "--initial-advertise-peer-urls",
                peer,
                "--initial-cluster",
                f"default={peer}",
            ),
            "--unsafe-no-fsync",
        ]
        self._parts.append(Process("etcd", command, self._folder, ready=f"{client}/readyz"))

    def _start_server(self, etcd: str, port: int) -> None:
        key, public, tokens = (self._folder / name for name in ("sa.key", "sa.pub", "tokens.csv"))
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        subprocess.run(
            ["openssl", "rsa", "-in", str(key), "-pubout", "-out", str(public)], check=True, capture_output=True
        )
        tokens.write_text(f"{TOKEN},admin,admin,system:masters\n")
        command = [
            *(str(toolchain.require("kube-apiserver")), f"--etcd-servers={etcd}", f"--secure-port={port}"),
            *("--bind-address=127.0.0.1", f"--cert-dir={self._folder / 'certificates'}", f"--token-auth-file={tokens}"),
            *("--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/24"),
            *(f"--service-account-key-file={public}", f"--service-account-signing-key-file={key}"),
            "--service-account-issuer=https://kubernetes.default.svc",
            "--disable-admission-plugins=ServiceAccount",  # nothing here makes the accounts that it would ask for
        ]
        server = Process("kube-apiserver", command, self._folder)
        self._parts.append(server)
        deadline = time.monotonic() + READY_S
        while not self._ready():
            if time.monotonic() > deadline or not server.running:
                raise NotReadyError(f"kube-apiserver is not ready:\n{server.tail()}")
            time.sleep(0.2)

    def _ready(self) -> bool:
        try:
            self.request("GET", "/readyz")
        except (OSError, RefusedError):
            return False
        return True

    def _write_kubeconfig(self) -> None:
        cluster = {"name": "c", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}
        user, context = {"name": "u", "user": {"token": TOKEN}}, {"name": "x", "context": {"cluster": "c", "user": "u"}}
        whole = {"apiVersion": "v1", "kind": "Config", "current-context": "x"}
        config = {**whole, "clusters": [cluster], "users": [user], "contexts": [context]}
        self.kubeconfig.write_text(json.dumps(config))  # JSON is YAML

    def manage(self) -> None:
        """Start kube-controller-manager with the controllers that need no node; the autoscaler looks every second."""
        (port,) = free_ports(1)
        program = str(toolchain.require("kube-controller-manager"))
        command = [
            *(program, f"--kubeconfig={self.kubeconfig}", f"--secure-port={port}", "--bind-address=127.0.0.1"),
            *(f"--cert-dir={self._folder / 'certificates'}", "--leader-elect=false", f"--controllers={CONTROLLERS}"),
            "--horizontal-pod-autoscaler-sync-period=1s",
        ]
        self._parts.append(Process("kube-controller-manager", command, self._folder))

    def request(self, method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> Any:
        """The answer's JSON (or text). Raises RefusedError, or OSError where nothing answers."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        request = urllib.request.Request(
            f"{self.url}{path}?{urllib.parse.urlencode(query)}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind},
            method=method,
        )
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as response:
                text = response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode()
            try:
                message = json.loads(said)["message"]
            except (ValueError, KeyError):
                message = said
            raise RefusedError(error.code, message) from None
        return json.loads(text) if text.startswith("{") else text

    def collection(self, thing: dict[str, Any]) -> str:
        """Path of the collection that an object belongs to, as the API's own discovery says."""
        version, kind = thing["apiVersion"], thing["kind"]
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        for resource in self.request("GET", base)["resources"]:
            if resource["kind"] == kind and "/" not in resource["name"]:
                space = f"/namespaces/{thing['metadata']['namespace']}" if resource["namespaced"] else ""
                return f"{base}{space}/{resource['name']}"
        raise RefusedError(404, f"no {kind} in {version}")

    def create(self, thing: dict[str, Any], *, dry_run: bool = False) -> Any:
        """Create an object, unknown fields refused; with ``dry_run`` only whether it would be. Raises RefusedError."""
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        return self.request("POST", self.collection(thing), thing, **query)

    def log(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"{part.name}:\n{part.tail(1500)}" for part in self._parts)

    def stop(self) -> int:
        return max((part.stop() for part in reversed(self._parts)), default=0)
