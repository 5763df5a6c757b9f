"""``Dockerfile`` and ``deploy/`` without a container engine: their commands run here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from server.config import Settings
from tests.support.http import call, wait_for
from tests.support.paths import ROOT
from tests.support.processes import Process

DEPLOY = ROOT / "deploy"
HADOLINT = Path(sys.executable).parent / "hadolint"
IMAGE = re.compile(r"^[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*$")
"""An image by a whole version."""


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, in order."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def environment() -> dict[str, str]:
    """Variables that the image's last stage sets, without the path."""
    last = max(i for i, (name, _) in enumerate(instructions()) if name == "FROM")
    pairs = " ".join(rest for name, rest in instructions()[last:] if name == "ENV").split()
    return {k: v for k, _, v in (pair.partition("=") for pair in pairs) if k != "PATH"}


def command(name: str) -> list[str]:
    """An instruction's command in its JSON form."""
    (found,) = [rest for kind, rest in instructions() if kind == name]
    return json.loads(found[found.index("[") :])


def resources() -> dict[str, dict]:
    return {r["kind"]: r for r in yaml.safe_load_all((DEPLOY / "k8s" / "xdlm.yaml").read_text())}


@pytest.mark.skipif(not HADOLINT.exists(), reason="no hadolint for this machine")
def test_the_dockerfile_is_clean():
    judged = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout


def test_the_image_is_pinned_and_runs_without_root():
    found = instructions()
    bases = {rest.split()[0] for name, rest in found if name == "FROM"}
    given = dict(rest.split("=") for name, rest in found if name == "ARG")
    assert bases == {"${PYTHON}", "${VARIANT}"} and IMAGE.match(given["PYTHON"])
    stages = {rest.split()[-1] for name, rest in found if name == "FROM"}
    assert given["VARIANT"] == "cpu" and {"cpu", "cuda"} <= stages
    assert [rest for name, rest in found if name == "USER"] == ["10001:10001"]
    install, compiler = [rest for name, rest in found if name == "RUN"]
    assert install == "sh deploy/install.sh /src /opt/xdlm"
    assert "gcc" in compiler and found.index(("RUN", compiler)) > found.index(
        ("FROM", "${PYTHON} AS cuda")
    )
    kept = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.M))
    for rest in (rest for name, rest in found if name == "COPY" and "--from" not in rest):
        *sources, _ = rest.split()
        assert set(sources) <= kept and all((ROOT / source).exists() for source in sources)
    known = {f"XDLM_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in environment() if name.startswith("XDLM_")} <= known


def test_the_health_check_tells_a_server_from_none(served):
    check = [sys.executable, *command("HEALTHCHECK")[1:]]
    for port, status in ((served.port, 0), (1, 1)):
        ended = subprocess.run(check, env={"XDLM_PORT": str(port)}, stderr=subprocess.DEVNULL)
        assert ended.returncode == status


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("packages", ["at hand", "fetched"])
def test_the_image_s_commands_install_and_serve_what_is_copied(tmp_path, packages):
    """``RUN``, ``ENTRYPOINT`` and ``CMD`` of the Dockerfile, in a folder instead of a container.

    Where the locked packages are at hand, pip finds them in this test's own environment, which was
    installed from the same list, and installs the project alone.
    """
    source, prefix = tmp_path / "src", tmp_path / "opt"
    if packages == "at hand":
        ours = Path(sysconfig.get_path("purelib"))
        subprocess.run(
            [Path(sys.base_prefix) / "bin" / "python3", "-m", "venv", prefix], check=True
        )
        (prefix / ours.relative_to(sys.prefix) / "at_hand.pth").write_text(f"{ours}\n")
    for rest in (rest for name, rest in instructions() if name == "COPY"):
        *names, target = rest.split()
        if names[0].startswith("--from"):
            continue
        for name in names:
            place = source / target if target == name else source / target / Path(name).name
            place.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, place)
    (run,) = [rest for name, rest in instructions() if name == "RUN" and "install.sh" in rest]
    line = run.replace("/src", str(source)).replace("/opt/xdlm", str(prefix))
    path = f"{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}"
    subprocess.run(line, shell=True, cwd=source, check=True, env={**os.environ, "PATH": path})
    shutil.rmtree(source)
    nowhere = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "all")}
    env = {**environment(), "PATH": f"{prefix}/bin:{path}", **nowhere, "XDLM_PORT": "0"}
    with subprocess.Popen(
        [prefix / "bin" / command("ENTRYPOINT")[0], *command("CMD")],
        env={**env, "HOME": str(tmp_path), "XDLM_HOST": "127.0.0.1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout is not None
        told = ""
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", told)):
            line = started.stdout.readline()
            assert line, told
            told += line
        server = Process(int(found[1]), started)
        wait_for(lambda: call(server, "GET", "/ready")[0].status == 200)
        body = {"prompt": "Once upon a time", "max_tokens": 20, "steps": 8}
        response, text = call(server, "POST", "/v1/completions", body)
        assert response.status == 200 and json.loads(text)["choices"][0]["text"]
        started.terminate()
    assert started.returncode == 0


@pytest.mark.parametrize("version", ["1.31", "1.33"])
def test_resources_of_kubernetes_are_by_the_schema(version):
    for resource in resources().values():
        kubernetes_validate.validate(resource, version, strict=True)


def test_pods_probe_what_there_is_and_have_time_to_end(served, tmp_path):
    found = resources()
    pod = found["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert call(served, "GET", container[probe]["httpGet"]["path"])[0].status == 200
    (tmp_path / "config.yaml").write_text(found["ConfigMap"]["data"]["config.yaml"])
    settings = Settings.read({}, tmp_path / "config.yaml")
    hook = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert hook + settings.shutdown_seconds < pod["terminationGracePeriodSeconds"]
    assert container["ports"][0]["containerPort"] == int(environment()["XDLM_PORT"])
    assert IMAGE.match(container["image"]) and pod["enableServiceLinks"] is False
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def is_confined(pod: dict, container: dict) -> bool:
    """Whether a pod runs without root, rights, and files of its image that it could change."""
    whole, own = pod["securityContext"], container["securityContext"]
    return (
        whole["runAsNonRoot"]
        and whole["seccompProfile"] == {"type": "RuntimeDefault"}
        and own["readOnlyRootFilesystem"]
        and own["allowPrivilegeEscalation"] is False
        and own["capabilities"] == {"drop": ["ALL"]}
    )


def test_pods_ask_for_the_keys_that_are_mounted(tmp_path):
    pod = resources()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {each["name"]: each["value"] for each in container["env"]}
    file = Path(env["XDLM_API_KEY_FILE"])
    (mount,) = [m for m in container["volumeMounts"] if Path(m["mountPath"]) == file.parent]
    (secret,) = [v["secret"] for v in pod["volumes"] if v["name"] == mount["name"]]
    assert mount["readOnly"] and not secret.get("optional") and secret["defaultMode"] == 0o400
    assert env.keys() <= {f"XDLM_{name.upper()}" for name in Settings.model_fields}
    assert is_confined(pod, container)


def test_pods_are_reached_by_their_clients_alone():
    found = resources()
    policy = found["NetworkPolicy"]["spec"]
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"} and policy["egress"] == []
    assert all(rule["from"] and rule["ports"] for rule in policy["ingress"])


def test_pods_of_ray_are_confined_and_ask_for_a_token():
    service = yaml.safe_load((DEPLOY / "ray" / "kuberay.yaml").read_text())
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert "0.0.0.0" not in group["rayStartParams"].values()
        assert all(is_confined(pod, container) for container in pod["containers"])
    policy = yaml.safe_load((DEPLOY / "ray" / "network.yaml").read_text())
    kubernetes_validate.validate(policy, "1.33", strict=True)


def test_grafana_has_no_password_that_everybody_knows():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    password = services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"]
    assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", password)  # Compose stops where it is not set
    hosts = services["xdlm"]["environment"]["XDLM_ALLOWED_HOSTS"].split(",")
    assert {"localhost", "127.0.0.1", "xdlm"} == set(hosts)


def test_no_command_in_the_documents_publishes_a_port_to_everybody():
    for page in [ROOT / "README.md", ROOT / "Dockerfile", *(ROOT / "docs").glob("*.md")]:
        for line in page.read_text().splitlines():
            if "docker run" in line:
                assert "-p 127.0.0.1:" in line, (page, line)


def test_compose_mounts_what_there_is():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        assert IMAGE.match(service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service.get("volumes", ()):
            place = volume.split(":")[0]
            assert not place.startswith(".") or (DEPLOY / place).exists(), volume
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    (target,) = scraped["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target == f"xdlm:{environment()['XDLM_PORT']}" and "xdlm" in services
    sources = yaml.safe_load(
        (DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text()
    )
    assert sources["datasources"][0]["url"] == "http://prometheus:9090" and "prometheus" in services
