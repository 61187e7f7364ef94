#!/usr/bin/env bash
# UTGRec's pre-training at the paper's scale on one machine or several: Qwen2-VL-2B, global batches of 256 and 1024.
#
#   GPUS=8 bash examples/pretrain_paper.sh --plan                              # the arithmetic, and nothing else
#   GPUS=8 DATA="data/sports data/games" bash examples/pretrain_paper.sh       # one machine
#   NODES=2 NODE_RANK=0 HEAD=10.0.0.1 GPUS=8 DATA=... bash examples/pretrain_paper.sh    # on the first of two
#   NODES=2 NODE_RANK=1 HEAD=10.0.0.1 GPUS=8 DATA=... bash examples/pretrain_paper.sh    # on the second
#
# All machines see DATA and OUTPUT at the same place. After a stop, the same lines go on from the last checkpoint.
#
# ITEMS, PAIRS: of all domains, for the arithmetic; TOKENS: of an item's prompt, with its image's 81; TFLOPS: bf16 peak
# of a GPU; SHARE: of it that is reached; STEPS_A_SECOND: of the recommender, which is too small to fill a GPU.
set -euo pipefail

GPUS=${GPUS:-8} NODES=${NODES:-1} NODE_RANK=${NODE_RANK:-0} HEAD=${HEAD:-127.0.0.1} PORT=${PORT:-29500}
OUTPUT=${OUTPUT:-runs/paper}
ITEMS=${ITEMS:-350000} PAIRS=${PAIRS:-9000000} TOKENS=${TOKENS:-400}
TFLOPS=${TFLOPS:-312} SHARE=${SHARE:-0.35} STEPS_A_SECOND=${STEPS_A_SECOND:-25}

all=$((GPUS * NODES))
if ((all > 16 || 16 % all)); then
    echo "GPUS x NODES is 1, 2, 4, 8 or 16: the paper's batch is 16 examples on each of 16; got $all." >&2
    exit 1
fi
accumulation=$((16 / all))

awk -v items="$ITEMS" -v pairs="$PAIRS" -v tokens="$TOKENS" -v gpus="$all" -v peak="$TFLOPS" -v share="$SHARE" \
    -v rate="$STEPS_A_SECOND" '
function ceil(x) { return x == int(x) ? x : int(x) + 1 }
BEGIN {
    language = 1.31e9; vision = 0.67e9; patches = 324  # weights without embeddings; patches of 256 x 256 pixels
    # forward, backward to the inputs, forward again for checkpoints: 2 each; the vision tower only forward
    item = 6 * language * tokens + 2 * vision * patches
    steps = 3 * ceil(items / 256)
    hours = steps * 256 * 2 * item / (gpus * peak * 1e12 * share) / 3600
    printf "tokenizer:   %d steps of 256 pairs, %.1e FLOP, %.1f hours on %d GPUs\n", steps, steps * 512 * item, hours, gpus
    # checkpoints of 28 layers of 1536 numbers, and what one layer holds while it is made again (3 x 8960 + 6 x 1536)
    held = 32 * tokens * 2 * (28 * 1536 + 3 * 8960 + 6 * 1536) / 1e9
    printf "             memory of a GPU: weights %.1f GB, activations %.1f GB (32 prompts of %d tokens)\n", 2.2 * 2, held, tokens
    steps = 50 * ceil(pairs / 1024)
    printf "recommender: %d steps of 1024 pairs, %.1f hours at %d steps a second, however many GPUs\n", steps, steps / rate / 3600, rate
}'
if [[ ${1:-} == --plan ]]; then
    exit
fi

resume=()
[[ -d $OUTPUT ]] && resume=(--resume)
# shellcheck disable=SC2086  # DATA holds several folders
exec torchrun --nnodes "$NODES" --node_rank "$NODE_RANK" --nproc_per_node "$GPUS" --master_addr "$HEAD" \
    --master_port "$PORT" -m trainers pretrain --config paper --data ${DATA:?the folders of the domains} \
    --output_dir "$OUTPUT" --tokenizer.gradient_accumulation_steps "$accumulation" \
    --recommender.gradient_accumulation_steps "$accumulation" "${resume[@]}"
