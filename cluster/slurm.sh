#!/bin/bash
# A Ray cluster inside a SLURM allocation, a node of it per machine, and the same job command as anywhere:
#
#   sbatch --nodes=4 --gpus-per-node=1 cluster/slurm.sh jobs.train method=paws dataset=folder dataset.path=/shared/images \
#       storage=/shared/runs runtime.num_workers=4 runtime.cpus_per_worker=8 runtime.gpus_per_worker=1
#
# from the project's folder, which all nodes see, after `make setup` there (GPUs: pip install -c constraints.txt '.[gpu]').
# Before the time limit, and after `scancel --batch --signal=TERM JOB`, the run saves and ends; a plain scancel takes the
# nodes away at once. sbatch with the same words goes on from the last checkpoint.
# Edit: time, and a line with your partition. Checked with shellcheck and run with a stand-in for srun (tests/cluster); never on a SLURM cluster.
#SBATCH --job-name=semisup
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --no-kill
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --output=slurm-%j.log
set -euo pipefail
if (($# == 0)); then
    echo "error: expected the words of a job, as in: sbatch cluster/slurm.sh jobs.train storage=/shared/runs" >&2
    exit 2
fi
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    echo "error: expected to be started by SLURM, as in: sbatch cluster/slurm.sh jobs.train storage=/shared/runs" >&2
    exit 2
fi

python=${SEMISUP_PYTHON:-.venv/bin/python}
# The token lies beside the log for this allocation alone: other users of a node reach Ray's ports.
token=$PWD/.ray-token-$SLURM_JOB_ID
trap 'rm -f "$token"' EXIT
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token
export RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID # another user's /tmp/ray cannot be written, and long paths break Ray's sockets
port=$((20000 + SLURM_JOB_ID % 10000))

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address)
head=${head%% *}
if [[ $head == 127.* || $head == *:* ]]; then
    echo "error: ${nodes[0]} calls itself $head; expected the IPv4 address by which the other nodes reach it" >&2
    exit 5
fi

# One step per node, so that one can be lost without the others.
steps=()
start() { # node, words of ray start
    srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --overlap --kill-on-bad-exit=0 --nodelist="$1" \
        "$python" -m ray.scripts.scripts start --block --disable-usage-stats --num-cpus="$SLURM_CPUS_PER_TASK" \
        --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 "${@:2}" &
    steps+=($!)
}
# shellcheck disable=SC2329 # the trap calls it
end() {
    for step in "${steps[@]:1}" "${steps[0]}"; do # the head last: a node asks it before it ends
        kill "$step" 2>/dev/null && wait "$step" 2>/dev/null || true
    done
    rm -rf "$token" "$RAY_TMPDIR"
}
trap end EXIT

# Nodes tell the workers on them that they leave; of the head, which has the last word, nobody waits for that.
RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 start "${nodes[0]}" --head --node-ip-address="$head" --port="$port" --include-dashboard=false
SECONDS=0
until "$python" -m ray.scripts.scripts health-check --address "$head:$port" &>/dev/null; do
    if ! kill -0 "${steps[0]}" 2>/dev/null || ((SECONDS > 300)); then
        echo "error: the head of the Ray cluster did not start" >&2
        exit 5
    fi
    sleep 1
done
for node in "${nodes[@]:1}"; do
    start "$node" --address="$head:$port"
done
"$python" - "$head:$port" "${#nodes[@]}" <<'PYTHON' # until all nodes are there
import sys, time
import ray
ray.init(sys.argv[1], logging_level="ERROR")
until = time.monotonic() + 300
while (alive := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[2]):
    if time.monotonic() > until:
        print(f"error: {alive} of {sys.argv[2]} nodes joined the Ray cluster within 300 s", file=sys.stderr)
        sys.exit(5)
    time.sleep(1)
PYTHON

# In the background, for bash runs a trap only then; the job gets the signal and has the rest of the time to save.
"$python" -m "$1" runtime.address="$head:$port" "${@:2}" &
job=$!
trap 'kill -TERM "$job" 2>/dev/null || true' TERM
code=0
wait "$job" || code=$?
if kill -0 "$job" 2>/dev/null; then # a signal ended the first wait, not the job
    code=0
    wait "$job" || code=$?
fi
exit "$code"
