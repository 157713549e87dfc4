"""The files for `ray up`, without an account: Ray's schema, each cloud's own parameters, and the project's rules."""

import copy
import json
import re
from pathlib import Path

import botocore.loaders
import botocore.model
import botocore.validate
import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[2] / "cluster"
CLOUDS = ["aws", "gcp", "azure"]
LISTS = ["initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"]
# What Ray reads of `provider`, which its schema leaves open.
PROVIDER = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes"},
    "gcp": {"type", "region", "availability_zone", "project_id", "cache_stopped_nodes"},
    "azure": {
        *("type", "location", "resource_group", "subscription_id", "unique_id", "subnet_mask", "msi_name"),
        *("msi_resource_group", "use_internal_ips", "cache_stopped_nodes"),
    },
}
# The dashboard listens on the machine itself only; the autoscaler is told where its file is.
START = "ulimit -n 65536; unset OMP_NUM_THREADS; ray start"
HEAD = [
    "ray stop",
    f"{START} --head --port=6379 --object-manager-port=8076 --autoscaling-config=~/ray_bootstrap_config.yaml "
    "--dashboard-host=127.0.0.1",
]
WORKER = ["ray stop", f"{START} --address=$RAY_HEAD_IP:6379 --object-manager-port=8076"]
AZURE_TEMPLATE = Path(ray.__file__).parent / "autoscaler" / "_private" / "_azure" / "azure-vm-template.json"
# What Ray itself fills in of that template.
AZURE_FILLED = {"vmName", "vmTags", "vmCount", "adminUsername", "publicKey", "msi", "nsg", "subnet", "zones"}
AZURE_FILLED |= {"provisionPublicIp"}
ARM_TYPES = {"string": str, "int": int, "bool": bool, "object": dict, "array": list}


def of(cloud):
    return yaml.safe_load((CLUSTER / f"{cloud}.yaml").read_text())


def errors_aws(node):
    api = botocore.loaders.Loader().load_service_model("ec2", "service-2")
    shape = botocore.model.ServiceModel(api, "ec2").operation_model("RunInstances").input_shape
    report = botocore.validate.ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **node}, shape)
    found = [line for line in [report.generate_report()] if line]
    if node["InstanceType"] not in shape.members["InstanceType"].enum:
        found.append(f"no instance type {node['InstanceType']}")
    market = node.get("InstanceMarketOptions", {}).get("MarketType", "spot")
    if market not in shape.members["InstanceMarketOptions"].members["MarketType"].enum:
        found.append(f"no market {market}")
    return found


def errors_gcp(node):
    schema = json.loads((Path(__file__).parent / "gcp_instance.json").read_text())
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(node)]


def errors_azure(node):
    template = json.loads(AZURE_TEMPLATE.read_text())["parameters"]
    given = node["azure_arm_parameters"]
    found = [f"no parameter {key}" for key in given if key not in template or key in AZURE_FILLED]
    needed = [key for key, value in template.items() if "defaultValue" not in value and key not in AZURE_FILLED]
    found += [f"{key} is missing" for key in needed if key not in given]
    wrong = [k for k, v in given.items() if k in template and not isinstance(v, ARM_TYPES[template[k]["type"].lower()])]
    found += [f"{key} is of another type" for key in wrong]
    for key, values in (("priority", ("Regular", "Spot")), ("evictionPolicy", ("Delete", "Deallocate"))):
        if given.get(key, values[0]) not in values:
            found.append(f"{key} is none of {values}")
    return found


ERRORS = {"aws": errors_aws, "gcp": errors_gcp, "azure": errors_azure}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_takes_it(cloud):
    config = of(cloud)
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    # Nothing comes from Ray's defaults, which install a nightly Ray.
    assert all(prepared[f"{name}_commands"] == config[f"{name}_commands"] for name in LISTS)
    assert prepared["available_node_types"].keys() == {"head", "gpu"}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_cloud_has_what_it_asks_for(cloud):
    for name, kind in of(cloud)["available_node_types"].items():
        assert ERRORS[cloud](kind["node_config"]) == [], name


@pytest.mark.parametrize(
    "cloud, break_it, expected",
    [
        ("aws", lambda node: node.update(InstanceTyp="g6.xlarge"), "InstanceTyp"),
        ("aws", lambda node: node.update(InstanceType="g66.xlarge"), "no instance type"),
        ("aws", lambda node: node["InstanceMarketOptions"].update(MarketType="spott"), "no market"),
        ("aws", lambda node: node["BlockDeviceMappings"][0]["Ebs"].update(VolumeSize="150"), "VolumeSize"),
        ("gcp", lambda node: node.update(scheduling=[{"preemptible": True}]), "is not of type 'object'"),
        ("gcp", lambda node: node["scheduling"].update(provisioningModel="SPOTT"), "SPOTT"),
        ("gcp", lambda node: node["disks"][0].update(bot=True), "bot"),
        ("azure", lambda node: node["azure_arm_parameters"].update(vmSise="D4"), "no parameter vmSise"),
        ("azure", lambda node: node["azure_arm_parameters"].pop("vmSize"), "vmSize is missing"),
        (
            "azure",
            lambda node: node["azure_arm_parameters"].update(evictionPolicy="Delet"),
            "evictionPolicy is none of",
        ),
        ("azure", lambda node: node["azure_arm_parameters"].update(osDiskSize="150"), "osDiskSize is of another type"),
    ],
)
def test_a_mistake_is_found(cloud, break_it, expected):
    node = copy.deepcopy(of(cloud)["available_node_types"]["gpu"]["node_config"])
    break_it(node)
    assert expected in "; ".join(ERRORS[cloud](node))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_it_keeps_the_rules(cloud):
    config = of(cloud)
    head, gpu = config["available_node_types"]["head"], config["available_node_types"]["gpu"]
    assert config["head_node_type"] == "head" and head["resources"] == {"CPU": 0, "GPU": 0}
    assert gpu["min_workers"] == 0 and gpu["max_workers"] == config["max_workers"] and gpu["resources"]["GPU"] == 1
    assert config["provider"].keys() == PROVIDER[cloud] and config["provider"]["cache_stopped_nodes"] is False
    assert config["idle_timeout_minutes"] == 10
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    options = [option for option in config["docker"]["run_options"] if not option.startswith("-e AZURE_")]
    assert options == ["--ulimit nofile=65536:65536", "-e RAY_AUTH_MODE=token"]
    assert not {"head_image", "worker_image"} & config["docker"].keys()  # one image everywhere
    assert head.keys() == {"resources", "node_config"}  # so there is one of it
    assert (config["head_start_ray_commands"], config["worker_start_ray_commands"]) == (HEAD, WORKER)
    login = config["initialization_commands"][-1]  # the registry of the image is the one that is logged in to
    assert config["docker"]["image"].split("/")[0].removesuffix(".azurecr.io") in login


def test_machines_are_not_open_to_the_world():
    for kind in of("aws")["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"]  # without them, Ray opens port 22 to all
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    for kind in of("gcp")["available_node_types"].values():
        (interface,) = kind["node_config"]["networkInterfaces"]  # without one, Ray takes the region's first network
        assert interface["subnetwork"].endswith("/subnetworks/semisup")
    assert of("azure")["provider"]["use_internal_ips"] is True  # Ray's template opens port 22 to all


def test_only_heads_may_start_machines():
    aws, gcp = (of(cloud)["available_node_types"] for cloud in ("aws", "gcp"))
    profiles = [aws[name]["node_config"]["IamInstanceProfile"]["Name"] for name in ("head", "gpu")]
    assert profiles == ["semisup-head", "semisup-worker"]
    # An account in the file would replace the one that Ray makes for the head, which may start machines.
    assert "serviceAccounts" in gcp["gpu"]["node_config"] and "serviceAccounts" not in gcp["head"]["node_config"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_words_of_its_header_are_valid(cloud, monkeypatch):
    from jobs.submission import Submission, check

    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "account")
    lines = [line[1:].strip() for line in (CLUSTER / f"{cloud}.yaml").read_text().splitlines() if line[:1] == "#"]
    text = " ".join(lines).replace("\\ ", "")
    (bucket,) = re.findall(r"export STORAGE=(\S+)", text)
    assert text.count(bucket) == 1 and text.count("storage=$STORAGE") == 2
    text = text.replace("$STORAGE", bucket)
    (words,) = re.findall(r"jobs\.submit -- train (.*?) Down:", text)
    check(Submission("train", words.split(), None))
    (words,) = re.findall(r"jobs\.data (.*?) \(where", text)
    check(Submission("data", words.split(), None))


def test_workers_are_spot_and_the_head_is_not():
    aws, gcp, azure = (
        {name: kind["node_config"] for name, kind in of(cloud)["available_node_types"].items()} for cloud in CLOUDS
    )
    assert aws["gpu"]["InstanceMarketOptions"]["MarketType"] == "spot" and "InstanceMarketOptions" not in aws["head"]
    assert gcp["gpu"]["scheduling"]["provisioningModel"] == "SPOT" and "scheduling" not in gcp["head"]
    assert azure["gpu"]["azure_arm_parameters"]["priority"] == "Spot"
    assert "priority" not in azure["head"]["azure_arm_parameters"]


def test_an_unknown_key_is_refused_by_rays_schema():
    config = prepare_config({**of("aws"), "idle_timeout": 5})
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(config)


IMAGES = {"aws.yaml", "gcp.yaml", "azure.yaml", "raycluster.yaml", "rayjob.yaml", "Dockerfile"}
FILES = [*CLUSTER.glob("*.yaml"), *CLUSTER.glob("kuberay/*.yaml"), CLUSTER / "Dockerfile", CLUSTER / "slurm.sh"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_names_versions_and_no_secret(file):
    text = file.read_text()
    assert not re.search(r":latest\b", text)
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|AccountKey=|[0-9a-f]{32}", text)
    pinned = dict(
        line.split(" ;")[0].split("==") for line in (CLUSTER.parent / "constraints.txt").read_text().splitlines()
    )
    project = (CLUSTER.parent / "pyproject.toml").read_text()
    (version,) = re.findall(r'^version = "(.*)"$', project, re.MULTILINE)
    tags = re.findall(r"semisup:(\S+)", text)
    assert tags or "semisup:" not in text and file.name not in IMAGES
    for tag in tags:
        assert re.fullmatch(rf"{re.escape(version)}-ray{re.escape(pinned['ray'])}-(gpu|cpu)(-aws|-gcp|-azure)?", tag), (
            tag
        )
    for found in re.findall(r"rayVersion: (\S+)", text):
        assert found == pinned["ray"]
