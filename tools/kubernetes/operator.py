"""The OpenTelemetry Operator beside a real Kubernetes API, which shows it each pod before it is stored."""

from __future__ import annotations

import base64
import shutil
import time
from pathlib import Path
from typing import Any, Final

import yaml

from tools import toolchain
from tools.kubernetes import crds
from tools.kubernetes.api import Kubernetes
from tools.ports import free_ports
from tools.stack.process import NotReadyError, Process, Running, taken

#: Of the Operator's webhooks those of a pod and of the one kind of object whose definition the API has.
PATHS: Final = ("-pod", "-instrumentation")


class Operator(Running):
    """A running Operator, and its webhooks in the API.

    Args:
        api: where it is registered.
        folder: receives its log and its keys.
        certificate: files of a certificate for 127.0.0.1, its own authority, and of the key.
    """

    def __init__(self, api: Kubernetes, folder: Path, certificate: tuple[Path, Path]) -> None:
        keys = folder / "k8s-webhook-server" / "serving-certs"  # in the folder for temporary files: it has no flag
        keys.mkdir(parents=True)
        for source, name in zip(certificate, ("tls.crt", "tls.key"), strict=True):
            shutil.copy(source, keys / name)
        port, health = free_ports(2)
        command = [
            *(str(toolchain.require("opentelemetry-operator")), f"--webhook-port={port}", "--metrics-addr=0"),
            *(f"--health-probe-addr=127.0.0.1:{health}", "--ignore-missing-collector-crds"),
        ]
        environment = {"KUBECONFIG": str(api.kubeconfig), "TMPDIR": str(folder)}
        self.process = Process("operator", command, folder, environment, ready=f"http://127.0.0.1:{health}/readyz")
        try:
            while not taken(port):  # it says that it is ready before its webhooks listen
                if not self.process.running:
                    raise NotReadyError(f"the Operator ended:\n{self.process.tail()}")
                time.sleep(0.05)
            for each in webhooks(f"https://127.0.0.1:{port}", certificate[0].read_bytes()):
                api.create(each)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> int:
        return self.process.stop()


def webhooks(url: str, authority: bytes) -> list[dict[str, Any]]:
    """The Operator's own registrations, pointed at a URL in place of a Service."""
    text = (crds.fetched(crds.OPERATOR) / "config" / "webhook" / "manifests.yaml").read_text()
    found = [each for each in yaml.safe_load_all(text) if each]
    for each in found:
        each["webhooks"] = [hook for hook in each["webhooks"] if _path(hook).endswith(PATHS)]
        for hook in each["webhooks"]:
            hook["clientConfig"] = {"url": url + _path(hook), "caBundle": base64.b64encode(authority).decode()}
            hook["failurePolicy"] = "Fail"  # an error of the Operator's is to be seen
    return found


def _path(hook: dict[str, Any]) -> str:
    return str(hook["clientConfig"]["service"]["path"])
