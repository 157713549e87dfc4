"""The files for KubeRay, without a cluster: pods by Kubernetes' schema, Ray's fields by those that KubeRay names."""

import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "cluster" / "kuberay"
BROKEN = Path(__file__).parent / "broken"
FIELDS = json.loads((Path(__file__).parent / "kuberay.json").read_text())
KUBERNETES = "1.33"


def groups(document):
    """(head, workers) of a cluster or of a job's cluster."""
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    return spec["headGroupSpec"], spec["workerGroupSpecs"]


def errors(document):
    """What KubeRay or Kubernetes would not take."""
    schema = {**FIELDS, "$ref": f"#/$defs/{document['kind']}"}
    found = [
        f"{'.'.join(map(str, error.path))}: {error.message}"
        for error in jsonschema.Draft202012Validator(schema).iter_errors(document["spec"])
    ]
    if found:
        return found
    head, workers = groups(document)
    submitter = document["spec"].get("submitterPodTemplate")
    for template in [group["template"] for group in (head, *workers)] + [submitter] * (submitter is not None):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
        try:
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(error.message)
    for group in workers:
        if not group["minReplicas"] <= group.get("replicas", group["minReplicas"]) <= group["maxReplicas"]:
            found.append(f"{group['groupName']}: replicas out of range")
    return found


def load(name):
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kuberay_and_kubernetes_take_it(name):
    document = load(name)
    assert document["apiVersion"] == "ray.io/v1" and errors(document) == []
    assert len(document["metadata"]["name"]) < 40


@pytest.mark.parametrize(
    "name, expected",
    [
        ("unknown_field.yaml", "'backofLimit' was unexpected"),
        ("no_template.yaml", "'template' is a required property"),
        ("misspelt_pod.yaml", "imagePulPolicy"),
    ],
)
def test_a_broken_file_is_refused(name, expected):
    assert expected in "; ".join(errors(yaml.safe_load((BROKEN / name).read_text())))


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_it_keeps_the_rules(name):
    document = load(name)
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    head, (gpu,) = groups(document)
    assert spec["authOptions"] == {"mode": "token", "secretName": "semisup-token"}
    assert spec["enableInTreeAutoscaling"] and gpu["minReplicas"] == gpu["replicas"] == 0
    assert head["rayStartParams"]["num-cpus"] == "0"
    images = set()
    for group in (head, gpu):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        (container,) = pod["containers"]
        images.add(container["image"])
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys() & container["resources"]["limits"].keys()
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
        assert {"name": "shared", "persistentVolumeClaim": {"claimName": "semisup"}} in pod["volumes"]
        assert pod["restartPolicy"] == "Never"  # what KubeRay wants with Ray's second autoscaler
    assert len(images) == 1
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    hidden = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}  # else the head sees the GPUs of its node's other pods
    assert hidden in head["template"]["spec"]["containers"][0]["env"]


def test_a_job_resumes_by_its_name_and_goes_when_it_is_done():
    spec = load("rayjob.yaml")["spec"]
    assert (
        spec["backoffLimit"] == 3 and " name=birds " in spec["entrypoint"] and " storage=/shared/" in spec["entrypoint"]
    )
    assert spec["submissionMode"] == "K8sJobMode"
    submitter = spec["submitterPodTemplate"]["spec"]
    assert submitter["securityContext"]["runAsNonRoot"] and submitter["containers"][0]["image"].startswith("registry.")
    assert spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] > 0 and spec["suspend"] is False


def test_the_job_has_the_environment_of_a_submitted_one():
    environment = yaml.safe_load(load("rayjob.yaml")["spec"]["runtimeEnvYAML"])
    assert environment == yaml.safe_load((FOLDER.parent / "runtime_env.yaml").read_text())


def test_the_words_of_the_job_are_valid():
    from jobs import config

    python, flag, module, *words = load("rayjob.yaml")["spec"]["entrypoint"].split()
    assert (python, flag, module) == ("python", "-m", "jobs.train")
    run = config.load(words)
    assert run.runtime.autoscaling and run.runtime.num_workers == 4
