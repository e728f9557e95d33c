#!/bin/bash
# Trains on 2 nodes of 8 GPUs each, under Slurm. From the root of the repository:
#
#   sbatch recipes/cluster/two_nodes.sh                                  # FSDP 2
#   SHARDING=zero3 sbatch recipes/cluster/two_nodes.sh --max_steps 100   # words after the script go to antiphase train
#
#SBATCH --job-name=antiphase
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --output=antiphase-%j.log
set -euo pipefail

FOLDER=${ANTIPHASE_CLUSTER:-recipes/cluster}
SHARDING=${SHARDING:-fsdp2}
GPUS=${SLURM_GPUS_PER_NODE:-8}
GPUS=${GPUS##*:} # Slurm may write the kind of GPU before the number, as in h100:8.
NODES=$SLURM_NNODES
# The first node of the job is the one that the others connect to.
HOSTS=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD=${HOSTS%%$'\n'*} # Not by a pipe into head: scontrol would be stopped by SIGPIPE, and pipefail would end the script.
PORT=$((20000 + SLURM_JOB_ID % 20000))
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} # compute nodes often have no network: download the model and the data before
export FOLDER SHARDING GPUS NODES HEAD PORT

# One task on each node starts the processes of its GPUs. SLURM_NODEID differs between the nodes, so it is read there.
srun --kill-on-bad-exit=1 bash -c '
    exec accelerate launch --config_file "$FOLDER/accelerate/$SHARDING.yaml" \
        --num_machines "$NODES" --num_processes $((NODES * GPUS)) --machine_rank "$SLURM_NODEID" \
        --main_process_ip "$HEAD" --main_process_port "$PORT" \
        -m antiphase train --config "$FOLDER/recipe.yaml" "$@"
' antiphase "$@"
